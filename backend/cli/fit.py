"""The command `fit`: will a recipe or a model run here, every way, with the sums. Knows nothing about counting."""

import argparse
import sys
from collections.abc import Iterator

from backend.cli.commands import DONE, print_json
from backend.errors import UsageError
from backend.fit.remedy import enough, place
from backend.fit.result import Fit, Outlook
from backend.services import Services
from backend.text import say, tell
from backend.units import bytes_text


def fit(args: argparse.Namespace, services: Services) -> int:
    """Print whether a recipe or a model runs on this machine; the verdict is the first word.

    Raises:
        UsageError: nothing has that name.
    """
    speeds = services.prospects.fitting.measured().speeds
    if (speeds is None or speeds.busy) and not args.json:
        services.prospects.fitting.measure_speeds(services.settings.models_dir)
    outlook = _outlook(args.name, services)
    if args.json:
        print_json(outlook)
        return DONE
    for line in lines(outlook, services.settings.language):
        print(line)
    if outlook.verdict is None:
        print(say(services.settings.language, "fit.why.unknown"), file=sys.stderr)
    return DONE


def _outlook(name: str, services: Services) -> Outlook:
    try:
        return services.outlook(name)
    except UsageError as problem:  # its way out is a set-up's
        if problem.key != "recipes.unknown":
            raise
        raise UsageError("fit.nothing", **problem.params) from problem


def lines(outlook: Outlook, language: str) -> Iterator[str]:
    """Yield an outlook as lines: verdict, way out, every way with its sum, what making it takes."""
    word = say(language, f"fit.{outlook.verdict}" if outlook.verdict else "fit.unknown")
    best = outlook.best
    making = best is not None and outlook.verdict is not None and outlook.verdict is not best.verdict
    yield say(language, "fit.table.making", verdict=word) if making else word
    said = [tell(language, outlook.remedy)] if outlook.remedy is not None else []
    if best is not None:
        why = tell(language, best.why)
        said = [*said, say(language, "fit.table.once", why=why)] if making else [why, *said]
    yield from said
    if outlook.disk_needed is not None:
        lean = outlook.disk_needed if outlook.disk_needed_lean is None else outlook.disk_needed_lean
        yield say(language, "fit.table.disk", need=outlook.disk_needed, lean=lean, free=outlook.disk_free)
    if outlook.memory_needed is not None:
        yield say(language, "fit.table.memory", need=outlook.memory_needed)
    if outlook.alternatives:
        yield say(language, "fit.table.alternatives", names=", ".join(outlook.alternatives))
    for one in outlook.ways:
        yield from _way(one, language)


def _way(one: Fit, language: str) -> Iterator[str]:
    key = "ggufready.way" if one.way.stored else "fit.table.bits"
    name = say(language, key, place=place(one), bits=one.way.bits)
    tokens = say(language, "fit.table.tokens", tokens=one.enough_for)
    yield f"\n{name:<20} {bytes_text(one.enough):>9}  {tokens:>14}  {say(language, f'fit.{one.verdict}')}"
    yield f"  {tell(language, one.why)}"
    if one.remedy is not None:
        yield f"  {tell(language, one.remedy)}"
    yield f"    {tell(language, enough(one))}"  # before the sum, which is of something else
    for message in next(iter(one.needs.values())).formula:
        yield f"    {tell(language, message)}"
