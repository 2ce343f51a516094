"""Words of the trade, each with its meaning a hover, a tap or a Tab key away. Knows nothing about gradio.

A term is a focusable word with a tooltip beside it: the pointer shows it, so does the keyboard's focus, and a touch
gives focus; Escape puts it away (assets/js/cards.js). A screen reader reads it as the word's description.
"""

from backend.text import say
from ui.render.markup import esc, link

TERMS = ("delta", "lora", "quantised", "dtype", "template", "layout", "shard", "gated", "context")


def term(name: str, language: str, *, word: str = "", where: str = "") -> str:
    """Return a word that explains itself; ``where`` makes its id unique on the page."""
    shown, meaning = word or say(language, f"wizard.term.{name}.word"), say(language, f"wizard.term.{name}.means")
    own = esc(f"term-{where}-{name}")
    return (
        f'<span class="term" tabindex="0" aria-describedby="{own}">{esc(shown)}'
        f'<span role="tooltip" id="{own}">{esc(meaning)}</span></span>'
    )


def gated(page: str, language: str, *, where: str) -> str:
    """Return that a licence has to be accepted first, with the page for that; nothing without one."""
    if not page:
        return ""
    word = term("gated", language, word=say(language, "wizard.gated"), where=where)
    return f'<p class="gated">{word} {link(say(language, "wizard.gated_page"), page)}</p>'


def glossary(language: str, *, where: str) -> str:
    """Return all terms in a row, for a form whose own labels can hold no markup."""
    words = " ".join(term(name, language, where=where) for name in TERMS)
    return f'<p class="terms">{esc(say(language, "wizard.term.row"))} {words}</p>'
