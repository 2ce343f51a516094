"""Where a model goes and in which number format: the decision that the engine takes and that a forecast foretells.

A pure function of a model in numbers, a way of loading and free memory. Knows nothing about torch, options or words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.fit.need import ON_CPU, ON_GPU, ONE_AT_A_TIME, Batching, Need

RESERVE = 1_000_000_000  # bytes for the driver's context, the libraries, and everybody else
MIN_AUTO_CONTEXT = 512  # tokens; a context shorter than this is not worth shrinking to
SEAMS = 0.95  # of several GPUs' room can be used: whole layers seldom fill a card
_STEP = 64


@dataclass(frozen=True)
class Room:
    """One GPU as this process sees it. ``bf16``: it computes bfloat16 natively."""

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
class Wish:
    """What was asked for; the words are those of ``EngineOptions``. ``alone``: no batches for this kind of model."""

    bits: int = 16
    dtype: str = "auto"
    context: int = 0
    gpus: int = 0  # how many; 0: as many as needed
    max_gpu_memory: int = 0
    alone: bool = False


@dataclass(frozen=True)
class Seat:
    """The decision. ``left``: bytes for the cache and what computing with it takes; ``least``: what would have been
    enough, where ``context`` is 0 because nothing fits."""

    device: str
    dtype: str
    context: int
    left: int
    batching: Batching
    gpus: tuple[int, ...] = ()
    max_memory: Mapping[int, int] = field(default_factory=dict)
    least: int = 0


def in_ram(need: Need, wish: Wish, machine: Machine, device: str) -> Seat:
    """CPU, or Apple's GPU which shares its memory. float32 computes fastest on most CPUs: it comes first there.

    On Apple's GPUs one request is computed at a time: of torch before 2.14 transformers itself says that its batches
    are slow there and take more memory than they should.
    """
    batching = ONE_AT_A_TIME if wish.alone or device == "mps" else ON_CPU
    choices = ["float16"] if device == "mps" else ["float32", "bfloat16"]
    if wish.dtype != "auto":
        choices = [wish.dtype]
    for dtype, whole in [*((dtype, True) for dtype in choices), (choices[-1], False)]:
        left = machine.ram_free - RESERVE - need.weights(wish.bits, dtype) - need.fixed(wish.bits, dtype, batching)
        context = _context(need, wish, left // need.token(dtype, batching), whole=whole)
        if context:
            return Seat(device, dtype, context, left, batching)
    return Seat(device, choices[-1], 0, 0, batching, least=_least(need, wish, choices[-1], batching))


def on_gpus(need: Need, wish: Wish, machine: Machine) -> Seat:
    """One GPU if that is enough, the roomiest; else layers on all of them, computed one request at a time."""
    rooms = {gpu.index: max(0, usable(gpu, wish) - RESERVE) for gpu in machine.gpus}
    native = all(gpu.bf16 for gpu in machine.gpus)
    dtype = ("bfloat16" if native else "float16") if wish.dtype == "auto" else wish.dtype
    weights = need.weights(wish.bits, dtype)
    best = max(rooms, key=lambda index: (rooms[index], -index))
    batching = ONE_AT_A_TIME if wish.alone else ON_GPU
    if wish.gpus <= 1:
        left = rooms[best] - weights - need.fixed(wish.bits, dtype, batching)
        context = _context(need, wish, left // need.token(dtype, batching))
        if context:
            return Seat("cuda", dtype, context, left, batching, (best,))
    # Layers of one model on several GPUs: each keeps the cache of its own layers; a little is wasted at the seams.
    cards = sorted(rooms) if wish.gpus != 1 else [best]
    many = ONE_AT_A_TIME if len(cards) > 1 else batching
    left = int(sum(rooms[index] for index in cards) * SEAMS) - weights - need.fixed(wish.bits, dtype, many)
    context = _context(need, wish, left // need.token(dtype, many)) if len(cards) > 1 else 0
    if not context:
        least = _least(need, wish, dtype, many) + RESERVE * (len(cards) - 1)
        return Seat("cuda", dtype, 0, 0, many, tuple(cards), least=least)
    share = context * need.token(dtype, many) // len(cards)
    most = {index: max(0, rooms[index] - share) for index in cards}
    return Seat("cuda", dtype, context, left, many, tuple(cards), most)


def usable(gpu: Room, wish: Wish) -> int:
    """Return the bytes of a GPU that may be used."""
    return min(gpu.free, wish.max_gpu_memory) if wish.max_gpu_memory else gpu.free


def _least(need: Need, wish: Wish, dtype: str, batching: Batching) -> int:
    """Return the free bytes that would do, on one device."""
    context = wish.context or min(need.context, MIN_AUTO_CONTEXT)
    held = need.weights(wish.bits, dtype) + need.fixed(wish.bits, dtype, batching)
    return held + context * need.token(dtype, batching) + RESERVE


def _context(need: Need, wish: Wish, tokens: int, *, whole: bool = False) -> int:
    """Return the context that room for ``tokens`` allows: all of it, or 0; less if that is all right with everybody."""
    wanted = wish.context or need.context
    if tokens >= wanted:
        return wanted
    shorter = tokens // _STEP * _STEP
    return shorter if not whole and not wish.context and shorter >= MIN_AUTO_CONTEXT else 0
