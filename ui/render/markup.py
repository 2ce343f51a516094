"""Small pieces of escaped HTML that every card is made of. Knows nothing about gradio or about what a card shows.

Whatever comes from outside (file names, error texts, a model's answer) goes through ``esc``; no HTML comes from data.
"""

import re
from collections.abc import Mapping
from html import escape

from backend.errors import CriaError
from backend.text import say, tell

_ADDRESS = re.compile(r"(https?://[!-~]*[\w/])", re.ASCII)  # to its last letter: a full stop after is the sentence's


def esc(text: object) -> str:
    """Return text that is safe inside an element and inside a double-quoted attribute, and that can be sent.

    File names and logs may hold lone surrogates, which UTF-8 cannot carry; they become question marks.
    """
    return escape(str(text).encode("utf-8", "replace").decode(), quote=True)


def button(label: str, do: str, name: str, *, primary: bool = False, confirm: str = "", enter: bool = False) -> str:
    """Return a button that reports ``do`` and ``name`` to its view's handler, after asking ``confirm`` if given.

    ``enter``: the Enter key in a field of the same form presses it too.
    """
    kind = "act primary" if primary else "act"
    ask = (f' data-confirm="{esc(confirm)}"' if confirm else "") + (" data-enter" if enter else "")
    return (
        f'<button type="button" class="{kind}" data-do="{esc(do)}" data-name="{esc(name)}"{ask}>{esc(label)}</button>'
    )


def field(label: str, name: str, *, value: str = "", kind: str = "text", hint: str = "", example: str = "") -> str:
    """Return a labelled input whose content travels as ``name`` with the buttons of the form around it.

    ``kind`` is the input's type; a password is never filled in and never remembered by the browser.
    """
    kept = 'autocomplete="off"' if kind == "password" else f'value="{esc(value)}" autocomplete="off"'
    below = f'<span class="hint">{esc(hint)}</span>' if hint else ""
    return (
        f'<label class="field"><span>{esc(label)}</span><input type="{esc(kind)}" data-field="{esc(name)}" {kept}'
        f' placeholder="{esc(example)}" spellcheck="false">{below}</label>'
    )


def link(words: str, address: str) -> str:
    """Return a link that opens a page of its own; only addresses of the web are links, anything else stays words."""
    if not address.startswith(("https://", "http://")):
        return esc(words)
    return f'<a href="{esc(address)}" target="_blank" rel="noopener noreferrer">{esc(words)}</a>'


def linked(text: str) -> str:
    """Return a text whose addresses of the web are links."""
    return "".join(link(part, part) if number % 2 else esc(part) for number, part in enumerate(_ADDRESS.split(text)))


def tick(label: str, name: str, *, on: bool, hint: str = "") -> str:
    """Return a labelled checkbox whose state travels as ``name`` with the buttons of the form around it."""
    below = f'<span class="hint">{esc(hint)}</span>' if hint else ""
    checked = " checked" if on else ""
    return (
        f'<label class="tick"><input type="checkbox" data-field="{esc(name)}"{checked}>'
        f"<span>{esc(label)}{below}</span></label>"
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
    way_out = f"<p>{linked(hint)}</p>" if hint else ""
    return f'<div class="remark {esc(kind)}" role="{role}"><p><strong>{esc(text)}</strong></p>{way_out}</div>'


def problem(error: CriaError, language: str, *, kind: str = "error") -> str:
    """Return an error as a remark: what is wrong, and the way out."""
    return remark(tell(language, error.message), tell(language, error.hint) if error.hint else None, kind=kind)


def known(value: str | None, language: str) -> str:
    """Return a fact, or the word for "unknown" in its place."""
    return value if value else say(language, "setup.unknown")
