"""Small pieces of escaped HTML that every card is made of. Knows nothing about gradio or about what a card shows.

Whatever comes from outside (file names, error texts, a model's answer) goes through ``esc``; no HTML comes from data.
"""

from collections.abc import Mapping
from html import escape

from backend.errors import CriaError
from backend.text import say, tell
from backend.units import duration_text


def esc(text: object) -> str:
    """Return text that is safe inside an element and inside a double-quoted attribute, and that can be sent.

    File names and logs may hold lone surrogates, which UTF-8 cannot carry; they become question marks.
    """
    return escape(str(text).encode("utf-8", "replace").decode(), quote=True)


def button(label: str, do: str, name: str, *, primary: bool = False, confirm: str = "") -> str:
    """Return a button that reports ``do`` and ``name`` to its view's handler, after asking ``confirm`` if given."""
    kind = "act primary" if primary else "act"
    ask = f' data-confirm="{esc(confirm)}"' if confirm else ""
    return (
        f'<button type="button" class="{kind}" data-do="{esc(do)}" data-name="{esc(name)}"{ask}>{esc(label)}</button>'
    )


def bar(label: str, fraction: float | None, *, kind: str = "") -> str:
    """Return a progress bar; ``fraction`` is 0..1, None while there is no telling how far it is."""
    if fraction is None:
        return f'<div class="bar waiting {esc(kind)}" role="progressbar" aria-label="{esc(label)}"><i></i></div>'
    percent = 100 * min(1.0, max(0.0, fraction))
    return (
        f'<div class="bar {esc(kind)}" role="progressbar" aria-label="{esc(label)}" aria-valuemin="0"'
        f' aria-valuemax="100" aria-valuenow="{percent:.0f}"><i style="width:{percent:.1f}%"></i></div>'
    )


def meter(label: str, used: int | None, total: int | None) -> str:
    """Return a gauge of how full something is; nothing where that is unknown."""
    if not total or used is None:
        return ""
    percent = 100 * min(1.0, max(0.0, used / total))
    return (
        f'<div class="meter" role="meter" aria-label="{esc(label)}" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{percent:.0f}"><i style="width:{percent:.1f}%"></i></div>'
    )


def facts(rows: Mapping[str, str]) -> str:
    """Return a description list of term -> text; the values are escaped here."""
    cells = "".join(f"<div><dt>{esc(term)}</dt><dd>{esc(text)}</dd></div>" for term, text in rows.items())
    return f'<dl class="facts">{cells}</dl>'


def remark(text: str, hint: str | None = None, *, kind: str = "info") -> str:
    """Return a boxed sentence with, maybe, a way out below; ``kind`` is info, warn or error (read out at once)."""
    role = "alert" if kind == "error" else "note"
    way_out = f"<p>{esc(hint)}</p>" if hint else ""
    return f'<div class="remark {esc(kind)}" role="{role}"><p><strong>{esc(text)}</strong></p>{way_out}</div>'


def problem(error: CriaError, language: str, *, kind: str = "error") -> str:
    """Return an error as a remark: what is wrong, and the way out."""
    return remark(tell(language, error.message), tell(language, error.hint) if error.hint else None, kind=kind)


def guess(seconds: float, language: str) -> str:
    """Return an estimate of time as people say it; tenths of a second would pretend to know."""
    return say(language, "setup.moment") if seconds < 1 else say(language, "setup.about", what=duration_text(seconds))


def known(value: str | None, language: str) -> str:
    """Return a fact, or the word for "unknown" in its place."""
    return value if value else say(language, "setup.unknown")
