"""What `check` says of speed and fit: disk, memory and network as measured, and how large a model runs well here.

Knows nothing about how anything is measured or counted.
"""

import argparse
from collections.abc import Iterator

from backend.fit.measured import Speeds
from backend.fit.reach import made, sized, widest
from backend.fit.result import Verdict
from backend.services import Services
from backend.text import say


def measured(args: argparse.Namespace, services: Services) -> Speeds:
    """Return this machine's speeds, measured now if they never were, a week ago, or ``--again``."""
    return services.prospects.fitting.measure_speeds(services.settings.models_dir, again=args.again)


def check_lines(args: argparse.Namespace, services: Services) -> Iterator[str]:
    """Yield the lines."""
    speeds, language = measured(args, services), services.settings.language
    unknown = say(language, "fit.measured.not_yet")
    disk = say(language, "fit.measured.disk", read=speeds.read, write=speeds.write) if speeds.write else unknown
    memory = say(language, "fit.measured.memory", memory=speeds.memory) if speeds.memory else unknown
    if speeds.memory and speeds.busy:
        memory += " " + say(language, "fit.measured.busy")
    rates = services.rates()
    network = say(language, "fit.measured.network", network=rates.network) if rates.network_measured else None
    network = network or say(language, "fit.measured.no_download", rate=rates.network)
    runs = _runs(services)
    for key, text in (("disk_speed", disk), ("memory_speed", memory), ("network_speed", network), ("fits", runs)):
        yield f"{say(language, f'fit.check.{key}'):<22} {text}"


def _runs(services: Services) -> str:
    """Return the largest model of the recipes that runs well here, and how; where the disk limits what can be set up,
    that as well: in the words of the page, of the same models."""
    language = services.settings.language
    models = sized((recipe, services.outlook(recipe)) for recipe in services.recipes())
    best = widest(models, Verdict.WELL)
    if best is None:
        return say(language, "fit.measured.none")
    fit = best.fit
    key = "fit.measured.largest_cpu" if fit.way.device == "cpu" else "fit.measured.largest"
    runs = say(language, key, size=best.size, bits=fit.way.bits, place=str(fit.why.params["place"]))
    room = made(models)
    if room is None or room.parameters < best.parameters:
        limit = say(language, "wizard.reach.disk", size=room.size) if room else say(language, "wizard.reach.no_disk")
        return say(language, "wizard.sentences", one=f"{runs}.", two=limit)
    return runs
