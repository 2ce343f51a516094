"""What is made of the memory there is for llama.cpp: context, requests at once, or the error that says what is missing.

The arithmetic is ``backend.fit``'s, which foretells it before anything is loaded. Knows nothing about files.
"""

from backend.errors import MachineError, UsageError
from backend.fit.llamacpp import MIN_AUTO_CONTEXT, PAGE, RESERVE, SLOTS, Room, cache_per_token, least, padded, room_for

__all__ = [
    "MIN_AUTO_CONTEXT", "PAGE", "RESERVE", "SLOTS", "Room", "cache_per_token", "computed", "fit_room", "padded",
]  # fmt: skip


def computed(wanted: int, longest: int, *, asked: bool) -> int:
    """Return the tokens of context up to which llama.cpp computes what the model is; ``asked`` as in ``fit_room``.

    Raises:
        UsageError: somebody asked for more.
    """
    if asked and wanted > longest:
        raise UsageError("gguf.too_long", asked=wanted, most=longest)
    return min(wanted, longest)


def fit_room(weights: int, per_token: int, free: int, *, wanted: int, asked: bool) -> Room:
    """Return what fits into ``free`` bytes. ``asked``: the context is a person's choice and is not made shorter.

    Raises:
        MachineError: it does not fit.
    """
    room = room_for(weights, per_token, free, wanted=wanted, asked=asked)
    if room is None:
        need = least(weights, per_token, wanted=wanted, asked=asked)
        raise MachineError("engine.no_room_ram", need=need, free=max(0, free))
    return room
