"""The terminal command that lists what can be set up by name: searched, filtered, grouped by family.

Knows nothing about how recipes are read or plans made.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby

from backend.cli.commands import DONE, print_json
from backend.cli.draw import width
from backend.errors import SourceError
from backend.fit.result import Verdict
from backend.plan import Plan
from backend.recipes import Recipe, search_recipes
from backend.services import Services
from backend.text import say

_WIDEST = 100


def recipes(args: argparse.Namespace, services: Services) -> int:
    """List the recipes that were asked for."""
    found = search_recipes(services.recipes(), args.words, language=args.language, size=args.size)
    if args.fits:
        found = tuple(recipe for recipe in found if _fits(recipe, services))
    if args.json:
        print_json([{**_plain(recipe), "estimate": _figures(_estimate(recipe, services))} for recipe in found])
    else:
        for line in _lines(found, services):
            print(line)
    for problem in services.recipe_problems():
        print(problem.text(services.settings.language), file=sys.stderr)
    if not found:
        print(say(services.settings.language, "recipelist.none"), file=sys.stderr)
    return DONE


def _fits(recipe: Recipe, services: Services) -> bool:
    """Tell whether a recipe's model runs here, and whether there is room to make it; what is not known counts."""
    return services.outlook(recipe).verdict is not Verdict.NO


def _plain(recipe: Recipe) -> dict[str, object]:
    return {name: getattr(recipe, name) for name in recipe.__dataclass_fields__} | {"access": recipe.access}


def _estimate(recipe: Recipe, services: Services) -> Plan | None:
    try:
        return services.estimate(recipe)
    except SourceError:
        return None


def _figures(plan: Plan | None) -> dict[str, object] | None:
    return plan.figures() if plan else None


def _lines(found: Sequence[Recipe], services: Services) -> Iterator[str]:
    """Yield the families, each with what it is and its sizes."""
    language = services.settings.language
    columns = min(shutil.get_terminal_size().columns, _WIDEST) - 1
    for number, (_, group) in enumerate(groupby(found, lambda recipe: recipe.family or recipe.name)):
        sizes = list(group)
        if number:
            yield ""
        yield from wrapped(_headline(sizes, language), columns, "")
        yield from wrapped(sizes[0].text(sizes[0].about, language), columns, "  ")
        for recipe in sizes:
            yield _row(recipe, _estimate(recipe, services), language)


def _headline(sizes: Sequence[Recipe], language: str) -> str:
    """Return a family's title: what the titles of its sizes have in common."""
    first = sizes[0]
    title = first.text(first.title, language).removesuffix(first.size).rstrip()
    return say(language, "recipelist.family", title=title, licence=first.text(first.licence, language) or "?")


def _row(recipe: Recipe, plan: Plan | None, language: str) -> str:
    name = recipe.name + " " * max(1, 30 - width(recipe.name))
    if plan is None:
        return f"  {name}{recipe.size}".rstrip()
    access = say(language, "recipelist.gated") if recipe.access else ""
    kept = plan.disk_bytes - plan.download_bytes  # while it is made it is more: the plan has that
    figures = say(language, "recipelist.figures", download=plan.download_bytes, kept=kept)
    return f"  {name}{figures} {access}".rstrip()


def wrapped(text: str, columns: int, indent: str) -> Iterator[str]:
    """Yield a text in lines of at most so many columns; Chinese may break anywhere, other text between words."""
    line, room = "", columns - len(indent)
    for word in _words(text):
        if line and width(line + word.rstrip()) > room:
            yield indent + line.rstrip()
            line = ""
        line += word
    if line.strip():
        yield indent + line.rstrip()


def _words(text: str) -> Iterator[str]:
    """Yield the pieces between which a line may break, each with the blank behind it."""
    piece = ""
    for char in text:
        if piece and ((width(char) > 1 and char not in "，。；：、！？）》”") or piece.endswith(" ")):
            yield piece
            piece = ""
        piece += char
    yield piece
