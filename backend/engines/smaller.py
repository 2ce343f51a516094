"""The next smaller way to load a model that did not fit: a shorter context, fewer bits, one more GPU, in this order.

Knows nothing about tensors or processes: it only knows options, and asks whether they would be taken.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from backend.engines.base import EngineOptions
from backend.engines.options import check_options
from backend.errors import UsageError
from backend.hardware import Hardware

SHORTEST = 1024  # tokens; less is not worth a second try
_FEWER: dict[int, Literal[8, 4]] = {16: 8, 8: 4}


def smaller(options: EngineOptions, machine: Hardware, context: int, *, quantises: bool = True) -> EngineOptions | None:
    """Return the next smaller options that this machine takes, or None where there are none.

    ``context`` is what was loaded (0 when loading failed: then only one that somebody asked for can be shortened,
    because an engine shortens the usual one by itself). ``quantises``: the weights can have fewer bits than they have.
    """
    for candidate in _candidates(options, machine, context):
        if candidate.bits != options.bits and not quantises:
            continue
        try:
            check_options(candidate, machine)
        except UsageError:  # a package is missing, or this engine has no such thing
            continue
        return candidate
    return None


def _candidates(options: EngineOptions, machine: Hardware, context: int) -> Iterator[EngineOptions]:
    now = context or options.context
    if now > SHORTEST:
        yield replace(options, context=max(SHORTEST, now // 2))
    bits = _FEWER.get(options.bits)
    if bits:
        yield replace(options, bits=bits)
    used = len(options.gpus) or options.num_gpus
    others = [gpu.index for gpu in machine.gpus if gpu.index not in options.gpus]
    if options.gpus and others:
        yield replace(options, gpus=(*options.gpus, others[0]), num_gpus=0)
    elif machine.gpus and 0 < used < len(machine.gpus):
        yield replace(options, num_gpus=used + 1)
