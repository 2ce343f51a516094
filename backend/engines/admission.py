"""What a load asks of the options, the machine and the folder before anything is unloaded; also asked to foretell a
refusal. Reads headers and small files only. Knows nothing about processes.
"""

from dataclasses import replace
from pathlib import Path

from backend.engines import find_engine
from backend.engines.base import EngineOptions
from backend.engines.choice import choose_engine
from backend.engines.folder import weights_bytes
from backend.engines.options import MAX_CONTEXT, check_options
from backend.hardware import Hardware
from backend.text import Message


def admit(folder: Path, options: EngineOptions, machine: Hardware) -> tuple[EngineOptions, Message | None, int]:
    """Return the options with the engine that computes, why it is not the fastest one, and the bytes of the weights.

    Raises:
        UsageError: options that cannot work together, on this machine, or with this model.
        WeightsError: the folder is not a loadable model.
    """
    options, why = choose_engine(options, machine, folder)
    kind = find_engine(options.engine)
    if options.context > MAX_CONTEXT:  # a model that is there says better how much it can take
        weights_bytes(folder, replace(options, loras=()), kind)
    check_options(options, machine)
    return options, why, weights_bytes(folder, options, kind)
