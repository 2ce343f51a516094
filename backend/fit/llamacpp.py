"""What llama.cpp takes on a CPU: the bytes of a GGUF file, and how many conversations of which length fit beside it.

Its number formats are those that Cria writes; blocks that a row does not divide into give way to coarser ones. Knows
nothing about files or llama.cpp's own words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from backend.dimensions import Dimensions, Role, TensorShape
from backend.fit.formats import GGUF_BLOCKS
from backend.fit.need import Batching
from backend.fit.result import Memory
from backend.fit.seat import Seat
from backend.text import Message

KINDS = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text")  # what Cria converts for it
_WITH_WINDOWS = ("gemma2", "gemma3_text")
SLOTS = 4  # replies computed at once: each weight is read once for all of them
RESERVE = 700_000_000  # bytes: the process and its tokenizer, a batch's activations, everybody else
MIN_AUTO_CONTEXT = 512  # tokens; a context shorter than this is not worth shrinking to
PAGE = 256  # tokens; llama.cpp rounds each conversation's room up to this (llama-context.cpp, GGML_PAD(n_ctx_seq, 256))
CACHE_ITEM = 2  # bytes; keys and values are kept in float16
OVERHEAD = 130_000_000  # bytes: Python, libraries, a batch of llama.cpp's; measured as the engine's in ``memory``
PER_WORD = 800  # bytes of a vocabulary's entry in llama.cpp's table and in the tokenizer's; measured, 400 to 128,000
_BATCH = 128  # tokens of prompt in one step
# Bits -> formats of a matrix and of the one that scores the words.
_FORMATS: Mapping[int, tuple[str, str]] = {16: ("F16", "F16"), 8: ("Q8_0", "Q8_0"), 4: ("Q4_K", "Q6_K")}
_INSTEAD: Mapping[str, str] = {"Q4_K": "Q4_0", "Q6_K": "Q8_0", "Q4_0": "F16", "Q8_0": "F16"}


@dataclass(frozen=True)
class Room:
    """What fits: tokens of context of each reply, and replies at once."""

    context: int
    slots: int


def room_for(weights: int, per_token: int, free: int, *, wanted: int, asked: bool) -> Room | None:
    """Return what fits into ``free`` bytes, None if nothing. ``asked``: a person's context, which is not shortened."""
    left = free - weights - RESERVE
    for slots in range(SLOTS, 0, -1):
        if slots * padded(wanted) * per_token <= left:
            return Room(wanted, slots)
    context = left // max(1, per_token) // PAGE * PAGE
    return None if asked or context < MIN_AUTO_CONTEXT else Room(context, 1)


def least(weights: int, per_token: int, *, wanted: int, asked: bool) -> int:
    """Return the free bytes that would do."""
    return weights + RESERVE + padded(wanted if asked else min(wanted, MIN_AUTO_CONTEXT)) * per_token


def longest(size: Dimensions) -> int:
    """Return the tokens of context up to which llama.cpp computes what the model is: beyond a window it looks back all
    the way except in Gemma, and it takes LongRoPE's other speeds for short conversations too."""
    windowed = size.window if size.kind not in _WITH_WINDOWS else None
    original = None if size.original_context is None else size.original_context // PAGE * PAGE
    return min(limit for limit in (size.context, windowed, original) if limit is not None)


def padded(context: int) -> int:
    """Return the tokens of cache that a context takes."""
    return -(-context // PAGE) * PAGE


def weights_bytes(size: Dimensions, bits: int) -> int:
    """Return the bytes of all tensors in a GGUF file of so many bits; of a ready-made one, what it has."""
    if size.stored is not None:
        return size.stored.bytes
    return sum(_bytes(tensor, bits, scores=size.tie) * times for tensor, times in size.distinct())


def repacked_bytes(size: Dimensions, bits: int) -> int:
    """Return the bytes of the copies that llama.cpp lays out for the processor: of 4-bit matrices, not of 8-bit ones on
    x86 (ggml-cpu/repack.cpp). The file's own pages stay in memory only while nobody else wants it."""
    if size.stored is not None:
        return size.stored.again
    matrices = [(one, times) for one, times in size.distinct() if one.role is Role.MATRIX] if bits == 4 else []
    return sum(_bytes(one, bits, scores=False) * times for one, times in matrices if one.shape[-1] % 256 == 0)


def cache_per_token(size: Dimensions) -> int:
    """Return the bytes of keys and values that one token of context keeps; layers with a window keep all as well."""
    if size.stored is not None:
        return size.stored.cache
    return 2 * size.layers * size.keys * CACHE_ITEM


def seat(size: Dimensions, bits: int, *, free: int, asked: int) -> Seat:
    """Return the decision that llama.cpp's engine takes; ``asked`` is a person's context, 0 for the model's own."""
    weights, each, wanted = weights_bytes(size, bits), cache_per_token(size), asked or longest(size)
    room = room_for(weights, each, free, wanted=wanted, asked=bool(asked))
    need = least(weights, each, wanted=wanted, asked=bool(asked))
    if room is None:
        return Seat("cpu", "float16", 0, 0, Batching(0, 1, 1), least=need)
    batching = Batching(0, room.slots, room.slots)
    return Seat("cpu", "float16", room.context, free - weights - RESERVE, batching, least=need)


def needed(size: Dimensions, bits: int, context: int) -> int:
    """Return the free bytes that one conversation takes in all, with what is left for everybody else."""
    return weights_bytes(size, bits) + padded(context) * cache_per_token(size) + RESERVE


def foretold(size: Dimensions, bits: int, chosen: Seat, *, correction: int = 0) -> Memory:
    """Return what the engine's process will hold when the model answers."""
    weights, each = weights_bytes(size, bits), cache_per_token(size)
    tokens = padded(chosen.context or longest(size)) * chosen.batching.conversations
    work = 4 * (_BATCH * (4 * size.hidden + 3 * size.ffn) + SLOTS * size.vocab)
    overhead, again = max(0, OVERHEAD + PER_WORD * size.vocab + correction), repacked_bytes(size, bits)
    copies = (Message("fit.sum.repacked", {"bytes": again}),) if again else ()
    several = chosen.batching.conversations
    cache = Message("fit.sum.cache", {"tokens": tokens, "each": each, "bytes": tokens * each})
    if several > 1:
        values = {"count": several, "tokens": tokens // several, "each": each, "bytes": tokens * each}
        cache = Message("fit.sum.caches", values)
    made = Message("fit.sum.gguf", {"count": size.parameters, "bits": bits, "bytes": weights})
    return Memory(weights + again, tokens * each, work, overhead, (
        made if size.stored is None else Message("ggufready.sum", {"bytes": weights}),
        *copies,
        cache,
        Message("fit.sum.work", {"bytes": work}),
        Message("fit.sum.overhead_ram", {"bytes": overhead}),
        Message("fit.sum.together", {"bytes": weights + again + tokens * each + work + overhead}),
    ))  # fmt: skip


def _bytes(tensor: TensorShape, bits: int, *, scores: bool) -> int:
    if tensor.role is Role.VECTOR:
        return 4 * tensor.count
    matrix, head = _FORMATS[bits]
    is_head = tensor.role is Role.HEAD or (scores and tensor.role is Role.EMBEDDING)
    layout = head if is_head else matrix
    while tensor.shape[-1] % GGUF_BLOCKS[layout][1]:
        layout = _INSTEAD[layout]
    block, count = GGUF_BLOCKS[layout]
    return prod(tensor.shape) // count * block
