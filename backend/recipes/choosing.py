"""Finding recipes: by name, by words, by language and size. Knows nothing about machines."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from backend.errors import UsageError
from backend.recipes.recipe import Recipe

_LISTED = 8


def find_recipe(recipes: Iterable[Recipe], name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        UsageError: there is none; the message lists those with the most similar names.
    """
    known = {recipe.name: recipe for recipe in recipes}
    if name not in known:
        near = get_close_matches(name.lower(), known, n=_LISTED, cutoff=0.5)
        listed = list(dict.fromkeys([*near, *known]))[:_LISTED]
        raise UsageError("recipes.unknown", name=name[:80], known=", ".join(listed) or "-", count=len(known))
    return known[name]


def search_recipes(
    recipes: Iterable[Recipe], words: Sequence[str] = (), *, language: str = "", size: str = ""
) -> tuple[Recipe, ...]:
    """Return the recipes that have every one of some words in a name, text or tag, in any language of the page: first
    those that are called so, then those that only mention it.

    A word that is a size means that size, not a text that speaks of it. ``language`` is a code such as ``zh``, which
    the model must speak; ``size`` such as ``7B``.
    """
    recipes = tuple(recipes)
    sizes = {recipe.size.casefold() for recipe in recipes}
    found = [
        recipe
        for recipe in recipes
        if all(_has(recipe, word.casefold(), is_size=word.casefold() in sizes) for word in words)
        and (not language or any(code.split("-")[0] == language.split("-")[0].lower() for code in recipe.languages))
        and (not size or recipe.size.casefold() == size.casefold())
    ]
    return tuple(sorted(found, key=lambda recipe: not all(word.casefold() in _names(recipe) for word in words)))


def _has(recipe: Recipe, word: str, *, is_size: bool) -> bool:
    if is_size:
        return word == recipe.size.casefold() or word in recipe.name.casefold().split("-")
    return word in _words(recipe)


def _names(recipe: Recipe) -> str:
    """Return what a recipe is called: its names, its titles, its tags, among which its nicknames are."""
    return "\n".join((recipe.name, recipe.family, recipe.size, *recipe.tags, *recipe.title.values())).casefold()


def _words(recipe: Recipe) -> str:
    said = (text for table in (recipe.about, recipe.good_for, recipe.licence) for text in table.values())
    sources = (part.source for part in recipe.parts)
    return "\n".join((_names(recipe), *sources, *said)).casefold()
