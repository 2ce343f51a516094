"""The terminal command that lists what can be set up by name: searched, filtered, grouped by family.

Knows nothing about how recipes are read or plans made.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence

from backend.cli.commands import DONE, print_json
from backend.cli.draw import width
from backend.errors import SourceError
from backend.fit.result import Verdict
from backend.plan import Plan
from backend.recipes import Recipe, search_recipes
from backend.services import Services
from backend.text import say

_WIDEST = 100
_LISTED = 8


def recipes(args: argparse.Namespace, services: Services) -> int:
    """List the recipes that were asked for."""
    found = search_recipes(services.recipes(), args.words, language=args.language, size=args.size)
    language, like_that, fits = services.settings.language, found, {}
    if args.fits:  # what is not known counts
        verdicts = {recipe.name: services.outlook(recipe).verdict for recipe in found}
        fits = {name: verdict for name, verdict in verdicts.items() if verdict is not Verdict.NO}
        found = tuple(recipe for recipe in found if recipe.name in fits)
    if args.json:
        told = [{"fits": fits[recipe.name]} if args.fits else {} for recipe in found]
        every = zip(found, told, strict=True)
        print_json([{**_plain(one), "estimate": _figures(_estimate(one, services)), **more} for one, more in every])
    else:
        for line in _lines(found, services, fits):
            print(line)
    for problem in services.recipe_problems():
        print(problem.text(language), file=sys.stderr)
    if not found and like_that:
        names = ", ".join(recipe.name for recipe in like_that[:_LISTED])
        print(say(language, "recipelist.none_fits", count=len(like_that), names=names), file=sys.stderr)
    elif not found:
        print(say(language, "recipelist.none"), file=sys.stderr)
    return DONE


def _plain(recipe: Recipe) -> dict[str, object]:
    return {name: getattr(recipe, name) for name in recipe.__dataclass_fields__} | {"access": recipe.access}


def _estimate(recipe: Recipe, services: Services) -> Plan | None:
    try:
        return services.estimate(recipe)
    except SourceError:
        return None


def _figures(plan: Plan | None) -> dict[str, object] | None:
    return plan.figures() if plan else None


def _lines(found: Sequence[Recipe], services: Services, fits: Mapping[str, Verdict | None]) -> Iterator[str]:
    """Yield the families, each once, with what it is and its sizes; ``fits``: the verdicts to tell, by name."""
    language = services.settings.language
    columns = min(shutil.get_terminal_size().columns, _WIDEST) - 1
    families: dict[str, list[Recipe]] = {}
    for recipe in found:
        families.setdefault(recipe.family or recipe.name, []).append(recipe)
    for number, sizes in enumerate(families.values()):
        if number:
            yield ""
        yield from wrapped(_headline(sizes, language), columns, "")
        yield from wrapped(sizes[0].text(sizes[0].about, language), columns, "  ")
        for recipe in sizes:
            verdict = say(language, f"fit.{fits[recipe.name] or 'unknown'}") if recipe.name in fits else ""
            yield _row(recipe, _estimate(recipe, services), language, verdict=verdict)


def _headline(sizes: Sequence[Recipe], language: str) -> str:
    """Return a family's title: what the titles of its sizes have in common."""
    first = sizes[0]
    title = first.text(first.title, language).removesuffix(first.size).rstrip()
    return say(language, "recipelist.family", title=title, licence=first.text(first.licence, language) or "?")


def _row(recipe: Recipe, plan: Plan | None, language: str, *, verdict: str) -> str:
    name = recipe.name + " " * max(1, 30 - width(recipe.name))
    if plan is None:
        return f"  {name}{verdict or recipe.size}".rstrip()
    access = say(language, "recipelist.gated") if recipe.access else ""
    kept = plan.disk_bytes - plan.download_bytes  # while it is made it is more: the plan has that
    key = "recipelist.fitting" if verdict else "recipelist.figures"
    figures = say(language, key, download=plan.download_bytes, kept=kept, verdict=verdict)
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
