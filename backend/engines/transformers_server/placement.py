"""Where a model goes and in which number format: options into a wish, the decision into words or an error.

The arithmetic is ``backend.fit``'s, which foretells the same decision before anything is loaded. Knows nothing about
torch: it is tested with tables of imaginary machines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.engines.base import EngineOptions
from backend.errors import MachineError
from backend.fit import seat
from backend.fit.need import ON_CPU, Batching, Need
from backend.fit.seat import RESERVE, Machine, Room, Seat, Wish
from backend.text import Message

__all__ = ["RESERVE", "Machine", "Need", "Placement", "Room", "place"]


@dataclass(frozen=True)
class Placement:
    """The decision. ``max_memory``: weight bytes per GPU when several; ``cache_room``: bytes for the cache and for
    computing with it, in the way that ``batching`` says.
    """

    device: str
    dtype: str
    context: int
    cache_room: int
    message: Message
    gpus: tuple[int, ...] = ()
    max_memory: Mapping[int, int] = field(default_factory=dict)
    batching: Batching = ON_CPU


def place(need: Need, options: EngineOptions, machine: Machine, *, alone: bool = False) -> Placement:
    """Decide where a model goes. ``alone``: a kind of model whose requests are computed one at a time.

    Raises:
        MachineError: it does not fit; the message has the numbers, the hint the next smaller option.
    """
    wish = Wish(
        options.bits,
        options.dtype,
        options.context,
        len(options.gpus) or options.num_gpus,
        options.max_gpu_memory,
        alone,
    )
    device = options.device
    if device == "auto":
        device = "cuda" if machine.gpus else "mps" if machine.mps else "cpu"
    if device == "cuda":
        return _on_gpus(need, options, machine, wish)
    found = seat.in_ram(need, wish, machine, device)
    if not found.context:
        raise MachineError("engine.no_room_ram", need=found.least, free=machine.ram_free, bits=options.bits)
    return _placed(found, _message(f"engine.placement.{device}", options, dtype=found.dtype))


def _on_gpus(need: Need, options: EngineOptions, machine: Machine, wish: Wish) -> Placement:
    if not machine.gpus:
        raise MachineError("engine.no_cuda_here")
    found = seat.on_gpus(need, wish, machine)
    if not found.context:
        raise _no_room(found.least, options, [gpu for gpu in machine.gpus if gpu.index in found.gpus], wish)
    if len(found.gpus) > 1:
        return _placed(found, _message("engine.placement.gpus", options, dtype=found.dtype, count=len(found.gpus)))
    name = next(gpu.name for gpu in machine.gpus if gpu.index == found.gpus[0])
    return _placed(found, _message("engine.placement.gpu", options, dtype=found.dtype, index=found.gpus[0], name=name))


def _placed(found: Seat, message: Message) -> Placement:
    return Placement(
        found.device, found.dtype, found.context, found.left, message, found.gpus, found.max_memory, found.batching
    )


def _no_room(least: int, options: EngineOptions, gpus: Sequence[Room], wish: Wish) -> MachineError:
    """Return the error with the numbers; where the cap is in the way and not the cards, it says so."""
    free, cap = sum(seat.usable(gpu, wish) for gpu in gpus), options.max_gpu_memory
    if free < sum(gpu.free for gpu in gpus):
        return MachineError("engine.no_room_cap", need=least, free=free, cap=cap, count=len(gpus), bits=options.bits)
    return MachineError("engine.no_room_gpu", need=least, free=free, count=len(gpus), bits=options.bits)


def _message(key: str, options: EngineOptions, **values: str | int) -> Message:
    if options.bits == 16:
        return Message(key, values)
    return Message(f"{key}_bits", {**values, "bits": options.bits})
