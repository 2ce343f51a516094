"""What `check` says of speed and fit: disk, memory and network as measured, and how large a model runs well here.

Knows nothing about how anything is measured or counted.
"""

import argparse
from collections.abc import Iterator

from backend.dimensions import Dimensions
from backend.fit.measured import Speeds
from backend.fit.result import Fit, Verdict
from backend.services import Services
from backend.text import say

# LLaMA's sizes: what people compare with.
_USUAL = (("65B", 8192, 80, 64, 22016), ("33B", 6656, 60, 52, 17920), ("13B", 5120, 40, 40, 13824),
          ("7B", 4096, 32, 32, 11008), ("3B", 3200, 26, 32, 8640), ("1B", 2048, 22, 32, 5632))  # fmt: skip


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
    found = largest(services)
    runs = say(language, "fit.measured.none")
    if found is not None:
        size, fit = found
        place = str(fit.why.params["place"])
        key = "fit.measured.largest_cpu" if fit.way.device == "cpu" else "fit.measured.largest"
        runs = say(language, key, size=size, bits=fit.way.bits, place=place)
    for key, text in (("disk_speed", disk), ("memory_speed", memory), ("network_speed", network), ("fits", runs)):
        yield f"{say(language, f'fit.check.{key}'):<22} {text}"


def largest(services: Services) -> tuple[str, Fit] | None:
    """Return the largest of LLaMA's sizes that runs well here, and how; None if none does."""
    hardware, prospects = services.prospects.machine(), services.prospects
    for name, hidden, layers, heads, ffn in _USUAL:
        size = Dimensions(
            kind="llama",
            vocab=32000,
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=heads,
            head_dim=hidden // heads,
            ffn=ffn,
            context=2048,
        )
        best = prospects.fitting.look(size, hardware, services.options).best
        if best is not None and best.verdict is Verdict.WELL:
            return name, best
    return None
