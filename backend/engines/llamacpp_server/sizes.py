"""What is made of the memory there is for llama.cpp: context, requests at once, or the error that says what is missing.

The arithmetic is ``backend.fit``'s, which foretells it before anything is loaded. Knows nothing about files.
"""

from backend.errors import MachineError
from backend.fit.llamacpp import MIN_AUTO_CONTEXT, PAGE, RESERVE, SLOTS, Room, least, padded, room_for

__all__ = ["MIN_AUTO_CONTEXT", "PAGE", "RESERVE", "SLOTS", "Room", "fit_room", "padded"]


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
