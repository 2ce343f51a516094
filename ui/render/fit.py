"""Will it run here, drawn: every way with its verdict and the sum behind it, folded.

A verdict is a word as well as a colour. Knows nothing about gradio or about how anything was counted.
"""

from backend.fit.remedy import enough, place
from backend.fit.result import Fit, Outlook
from backend.text import say, tell
from backend.units import bytes_text
from ui.render.markup import esc


def verdict_badge(verdict: str | None, language: str, *, why: str = "") -> str:
    """Return a verdict as a word in its colour, with its reason to point at; one that is not known says so."""
    kind = verdict or "unknown"
    word = esc(say(language, f"fit.{kind}"))
    title = f' title="{esc(why)}"' if why else ""
    return f'<span class="fit {esc(kind)}"{title}><i class="dot {esc(kind)}"></i>{word}</span>'


def fit_table(outlook: Outlook, language: str) -> str:
    """Return all ways to run a model with their sums, folded; nothing where none is known."""
    if not outlook.ways:
        return ""
    heads = "".join(
        f'<th scope="col">{esc(say(language, f"fit.table.{name}"))}</th>'
        for name in ("way", "verdict", "needs", "free", "context")
    )
    rows = "".join(_row(fit, language) for fit in outlook.ways)
    title = esc(say(language, "fit.table.title"))
    table = f'<table class="fits"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<details><summary>{title}</summary><div class="scroll">{table}</div></details>'


def _row(fit: Fit, language: str) -> str:
    needs, free = bytes_text(fit.enough), bytes_text(_sum(fit))
    context = say(language, "fit.table.tokens", tokens=fit.context) if fit.context else "–"
    key = "ggufready.way" if fit.way.stored else "fit.table.bits"
    name = say(language, key, place=place(fit), bits=fit.way.bits)
    said = [fit.why, *([fit.remedy] if fit.remedy else [])]
    why = "".join(f"<p>{esc(tell(language, one))}</p>" for one in said)
    sums = [enough(fit), *next(iter(fit.needs.values())).formula]  # what the sum is of comes first
    lines = "".join(f"<li>{esc(tell(language, one))}</li>" for one in sums)
    return (
        f'<tr><th scope="row">{esc(name)}</th><td>{verdict_badge(fit.verdict, language)}</td><td>{esc(needs)}</td>'
        f"<td>{esc(free)}</td><td>{esc(context)}</td></tr>"
        f'<tr class="why"><td colspan="5">{why}<ul>{lines}</ul></td></tr>'
    )


def _sum(fit: Fit) -> int | None:
    """Return the bytes that are free in all places of a way, None if one of them is not known."""
    known = [one for one in fit.free.values() if one is not None]
    return sum(known) if len(known) == len(fit.free) else None
