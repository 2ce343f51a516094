"""The recipe gallery: what can be made, what it is good for, what to press. Knows nothing about gradio."""

from collections.abc import Sequence
from dataclasses import dataclass

from backend.errors import CriaError
from backend.recipes import Recipe
from backend.text import has, say
from backend.units import bytes_text
from ui.render.markup import button, esc, facts, problem


@dataclass(frozen=True)
class Offer:
    """One recipe as seen from here and now. ``model``: its model on the shelf; ``job``: its set-up that runs."""

    recipe: Recipe
    disk_bytes: int | None = None
    download_bytes: int | None = 0  # None: only the plan tells
    error: CriaError | None = None  # why it cannot be planned here
    model: str | None = None
    job: str | None = None


def _language_names(codes: Sequence[str], language: str) -> str:
    names = (say(language, key) if has(key := f"setup.speaks.{code}") else code for code in codes)
    return say(language, "setup.list_comma").join(names) or say(language, "setup.unknown")


def _facts(offer: Offer, language: str) -> str:
    recipe = offer.recipe
    size = bytes_text(offer.disk_bytes) if offer.disk_bytes is not None else say(language, "setup.unknown")
    download = bytes_text(offer.download_bytes) if offer.download_bytes else say(language, "setup.recipes.none")
    if offer.download_bytes is None:
        size = download = say(language, "setup.recipes.asked")
    return facts(
        {
            say(language, "setup.recipes.good_for"): recipe.text(recipe.good_for, language),
            say(language, "setup.recipes.size"): size,
            say(language, "setup.recipes.download"): download,
            say(language, "setup.recipes.languages"): _language_names(recipe.languages, language),
            say(language, "setup.recipes.licence"): recipe.text(recipe.licence, language)
            or say(language, "setup.unknown"),
        }
    )


def _buttons(offer: Offer, language: str) -> list[str]:
    name, first = offer.recipe.name, offer.recipe.recommended
    if offer.job:
        return [button(say(language, "setup.recipes.watch"), "show", offer.job, primary=first)]
    if offer.error:
        return []
    if offer.model:
        return [
            button(say(language, "setup.recipes.chat"), "chat", offer.model, primary=first),
            button(say(language, "setup.recipes.again"), "look", name),
        ]
    look = button(say(language, "setup.recipes.look"), "look", name)
    return [button(say(language, "setup.recipes.start"), "start", name, primary=True), look] if first else [look]


def _badge(offer: Offer, language: str) -> str:
    if offer.job:
        key = "setup.recipes.being_made"
    elif offer.model:
        key = "setup.recipes.on_shelf"
    elif offer.recipe.recommended:
        key = "setup.recipes.recommended"
    else:
        return ""
    return f'<span class="badge">{esc(say(language, key))}</span>'


def _obstacle(error: CriaError | None, language: str, admin: bool) -> str:
    """Return why a recipe cannot be used here; it may name folders, so others than administrators only learn that."""
    if error is None:
        return ""
    return problem(error if admin else CriaError("ui.for_admins"), language, kind="warn")


def _card(offer: Offer, language: str, admin: bool) -> str:
    recipe = offer.recipe
    about = recipe.text(recipe.about, language)
    actions = "".join(_buttons(offer, language)) if admin else ""
    return (
        f'<article class="recipe{" first" if recipe.recommended else ""}" data-recipe="{esc(recipe.name)}">'
        f"<header><h3>{esc(recipe.text(recipe.title, language))}</h3>{_badge(offer, language)}</header>"
        f"<p>{esc(about)}</p>{_facts(offer, language)}"
        f"{_obstacle(offer.error, language, admin)}"
        f'<div class="acts">{actions}</div></article>'
    )


def recipe_gallery(offers: Sequence[Offer], language: str, *, admin: bool) -> str:
    """Return the gallery as HTML, in the order given; without buttons for somebody who may not press them."""
    if not offers:
        return f"<p>{esc(say(language, 'setup.recipes.empty'))}</p>"
    return f'<div class="recipes">{"".join(_card(offer, language, admin) for offer in offers)}</div>'
