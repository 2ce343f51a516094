"""The gallery's search box and filters; they work in the browser (assets/js/cards.js). Knows nothing about gradio."""

from collections.abc import Sequence

from backend.recipes import Recipe
from backend.text import has, say
from ui.render.markup import esc

# Parameters in millions, from .. to below; what people call 3B, 7B, 13B and 33B each falls well inside.
SIZES = ("0-4500", "4500-10000", "10000-21000", "21000-")


def _choice(name: str, title: str, options: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<option value="{esc(value)}">{esc(text)}</option>' for value, text in options)
    return f'<label class="pick"><span>{esc(title)}</span><select data-filter="{name}">{rows}</select></label>'


def _tick(name: str, text: str) -> str:
    return f'<label class="tick"><input type="checkbox" data-filter="{name}"><span>{esc(text)}</span></label>'


def filters_bar(recipes: Sequence[Recipe], language: str) -> str:
    """Return the search box, the filters, and how many models are left."""
    codes = dict.fromkeys(code.split("-")[0] for recipe in recipes for code in recipe.languages)
    spoken = [(code, say(language, key)) for code in codes if has(key := f"setup.speaks.{code}")]
    search, count = esc(say(language, "wizard.search")), esc(say(language, "wizard.count"))
    every = say(language, "wizard.any")
    sizes = [(size, say(language, f"wizard.size_{number}")) for number, size in enumerate(SIZES)]
    return (
        f"<h2>{esc(say(language, 'setup.recipes.heading'))}</h2>"
        f'<div class="filters" role="search"><label class="search"><span class="unseen">{search}</span>'
        f'<input type="search" data-filter="search" placeholder="{search}" autocomplete="off"></label>'
        f"{_choice('language', say(language, 'setup.recipes.languages'), [('', every), *spoken])}"
        f"{_choice('size', say(language, 'wizard.sizes'), [('', every), *sizes])}"
        f"{_tick('here', say(language, 'wizard.only_here'))}{_tick('open', say(language, 'wizard.only_open'))}"
        f'<output data-count="{count}"></output></div>'
    )
