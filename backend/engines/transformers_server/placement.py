"""Where a model goes and in which number format: a pure function of tensor sizes, options and free memory.

Knows nothing about torch: it is tested with tables of imaginary machines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.engines.base import EngineOptions
from backend.errors import MachineError
from backend.text import Message

RESERVE = 1_000_000_000  # bytes for activations, the driver's context and everybody else
MIN_AUTO_CONTEXT = 512  # tokens; a context shorter than this is not worth shrinking to
_STEP = 64
# Bytes per weight of a quantised matrix: int8 with a scale a row; NF4 doubly quantised, 4.127 bits (QLoRA, 2023).
_QUANTISED = {8: 1.01, 4: 0.516}
_ITEM = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Room:
    """One GPU as this process sees it, counted from 0. ``bf16``: it computes bfloat16 natively."""

    index: int
    name: str
    free: int
    bf16: bool = True


@dataclass(frozen=True)
class Machine:
    """What there is to put a model on; bytes are free bytes."""

    ram_free: int
    gpus: tuple[Room, ...] = ()
    mps: bool = False


@dataclass(frozen=True)
class Need:
    """A model in numbers: weights that quantisation shrinks, weights it leaves, cache numbers per token, context."""

    matrices: int
    others: int
    cache_per_token: int
    context: int

    def weights(self, bits: int, dtype: str) -> int:
        """Return the bytes of all weights."""
        if bits == 16:
            return (self.matrices + self.others) * _ITEM[dtype]
        return int(self.matrices * _QUANTISED[bits]) + self.others * _ITEM[dtype]

    def cache(self, dtype: str) -> int:
        """Return the bytes of cache one token takes."""
        return self.cache_per_token * _ITEM[dtype]


@dataclass(frozen=True)
class Placement:
    """The decision. ``max_memory``: weight bytes per GPU when several; ``cache_room``: bytes for the cache."""

    device: str
    dtype: str
    context: int
    cache_room: int
    message: Message
    gpus: tuple[int, ...] = ()
    max_memory: Mapping[int, int] = field(default_factory=dict)


def place(need: Need, options: EngineOptions, machine: Machine) -> Placement:
    """Decide where a model goes.

    Raises:
        MachineError: it does not fit; the message has the numbers, the hint the next smaller option.
    """
    device = options.device
    if device == "auto":
        device = "cuda" if machine.gpus else "mps" if machine.mps else "cpu"
    if device == "cuda":
        return _on_gpus(need, options, machine)
    return _in_ram(need, options, machine, device)


def _in_ram(need: Need, options: EngineOptions, machine: Machine, device: str) -> Placement:
    """CPU, or Apple's GPU which shares its memory. float32 computes fastest on most CPUs: it comes first there."""
    room = machine.ram_free - RESERVE
    choices = ["float16"] if device == "mps" else ["float32", "bfloat16"]
    if options.dtype != "auto":
        choices = [options.dtype]
    for dtype, whole in [*((dtype, True) for dtype in choices), (choices[-1], False)]:
        left = room - need.weights(options.bits, dtype)
        context = _context(need, options, left // need.cache(dtype), whole=whole)
        if context:
            return Placement(device, dtype, context, left, _message(f"engine.placement.{device}", options, dtype=dtype))
    least = need.weights(options.bits, choices[-1]) + MIN_AUTO_CONTEXT * need.cache(choices[-1]) + RESERVE
    raise MachineError("engine.no_room_ram", need=least, free=machine.ram_free, bits=options.bits)


def _on_gpus(need: Need, options: EngineOptions, machine: Machine) -> Placement:
    if not machine.gpus:
        raise MachineError("engine.no_cuda_here")
    rooms = {gpu.index: _room(gpu, options) for gpu in machine.gpus}
    names = {gpu.index: gpu.name for gpu in machine.gpus}
    native = all(gpu.bf16 for gpu in machine.gpus)
    dtype = ("bfloat16" if native else "float16") if options.dtype == "auto" else options.dtype
    weights = need.weights(options.bits, dtype)
    best = max(rooms, key=lambda index: (rooms[index], -index))
    asked = len(options.gpus) or options.num_gpus
    if asked <= 1:
        left = rooms[best] - weights
        context = _context(need, options, left // need.cache(dtype))
        if context:
            message = _message("engine.placement.gpu", options, dtype=dtype, index=best, name=names[best])
            return Placement("cuda", dtype, context, left, message, (best,))
    # Layers of one model on several GPUs: each keeps the cache of its own layers; a little is wasted at the seams.
    usable = sorted(rooms) if asked != 1 else [best]
    left = int(sum(rooms[index] for index in usable) * 0.95) - weights
    context = _context(need, options, left // need.cache(dtype)) if len(usable) > 1 else 0
    if not context:
        least = weights + MIN_AUTO_CONTEXT * need.cache(dtype) + RESERVE * len(usable)
        raise _no_room(least, options, [gpu for gpu in machine.gpus if gpu.index in usable])
    share = context * need.cache(dtype) // len(usable)
    message = _message("engine.placement.gpus", options, dtype=dtype, count=len(usable))
    return Placement(
        "cuda", dtype, context, left, message, tuple(usable), {index: max(0, rooms[index] - share) for index in usable}
    )


def _room(gpu: Room, options: EngineOptions) -> int:
    return max(0, _usable(gpu, options) - RESERVE)


def _usable(gpu: Room, options: EngineOptions) -> int:
    return min(gpu.free, options.max_gpu_memory) if options.max_gpu_memory else gpu.free


def _no_room(least: int, options: EngineOptions, gpus: Sequence[Room]) -> MachineError:
    """Return the error with the numbers; where the cap is in the way and not the cards, it says so."""
    free, cap = sum(_usable(gpu, options) for gpu in gpus), options.max_gpu_memory
    if free < sum(gpu.free for gpu in gpus):
        return MachineError("engine.no_room_cap", need=least, free=free, cap=cap, count=len(gpus), bits=options.bits)
    return MachineError("engine.no_room_gpu", need=least, free=free, count=len(gpus), bits=options.bits)


def _context(need: Need, options: EngineOptions, tokens: int, *, whole: bool = False) -> int:
    """Return the context that ``tokens`` of cache allow: all of it, or 0; less if that is all right with everybody."""
    wanted = options.context or need.context
    if tokens >= wanted:
        return wanted
    shorter = tokens // _STEP * _STEP
    return shorter if not whole and not options.context and shorter >= MIN_AUTO_CONTEXT else 0


def _message(key: str, options: EngineOptions, **values: str | int) -> Message:
    if options.bits == 16:
        return Message(key, values)
    return Message(f"{key}_bits", {**values, "bits": options.bits})
