"""A model in numbers: what its weights, its cache and one step of computing take, in whatever format. No machine here.

It follows what the transformers engine does: linear layers shrink, embeddings, head and norms do not; requests are
computed in batches over a cache that is taken in whole pages, or one at a time over a cache that grows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import lcm

from backend.dimensions import T5, Dimensions, Role, TensorShape
from backend.fit.formats import ITEM, int8_bytes, nf4_bytes

BATCHED = frozenset(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3"))
SLOTS, GPU_SLOTS = 8, 16  # requests in one batch; a GPU reads the weights once for all of them, a CPU computes each
PAGE = 64  # tokens of cache given out together
_TRASH_PAGES = 2  # that the library keeps for padding
_LEFT_OVER = 3  # sectors: the last one of either sort of layer, and a window that is no whole number of pages
_LOGIT_COPIES = 4  # of a row of logits, float32: as they come, sorted, summed, cut


@dataclass(frozen=True)
class Batching:
    """How a device computes: tokens of prompt in one step, the full conversations that the cache holds at most, and
    requests at once."""

    chunk: int
    conversations: int
    slots: int


ON_CPU, ON_GPU = Batching(128, 2, SLOTS), Batching(2048, SLOTS, GPU_SLOTS)
ONE_AT_A_TIME = Batching(0, 1, 1)  # no pages; a prompt is one step


@dataclass(frozen=True)
class Need:
    """Counts of numbers. ``matrices`` are the weights that quantisation shrinks, ``others`` those that it leaves.

    ``rows`` and ``count`` are of the matrices; ``kept`` stay float32 unless all is bfloat16. ``window_cache``: of the
    layers that look back only so far, in one conversation; ``every_layer``: what a token would keep without windows;
    ``sector``: what the cache's smallest share for either sort of layer keeps of a token. ``reads``: per cached token,
    what attention copies out of one layer at a time; ``step``: per prompt token, what is alive at the peak; ``row``:
    logits of one answer; ``largest``: the largest matrix, which is unpacked to compute with it when it was quantised.
    """

    matrices: int
    others: int
    cache_per_token: int
    context: int
    rows: int = 0
    count: int = 0
    kept: int = 0
    window_cache: int = 0
    every_layer: int = 0
    sector: int = 0
    reads: int = 0
    step: int = 0
    row: int = 0
    largest: int = 0

    def weights(self, bits: int, dtype: str) -> int:
        """Return the bytes of all weights."""
        item = ITEM[dtype]
        kept = self.kept * (4 if bits != 16 or dtype == "float16" else item)
        if bits == 16:
            return (self.matrices + self.others) * item + kept
        small = int8_bytes(self.matrices, self.rows) if bits == 8 else nf4_bytes(self.matrices, self.count)
        return small + self.others * item + kept

    def cache(self, dtype: str) -> int:
        """Return the bytes of cache that one more token takes."""
        return self.cache_per_token * ITEM[dtype]

    def token(self, dtype: str, batching: Batching) -> int:
        """Return the bytes that one more token of context takes: its cache, and what computing with it does."""
        item = ITEM[dtype]
        if batching.chunk:  # each mask has a column a token; its place in the cache is an int64
            return self.cache(dtype) + (self.reads + self._masks * batching.chunk) * item + 8
        return self.cache(dtype) + (self.reads + self.step) * item

    def fixed(self, bits: int, dtype: str, batching: Batching) -> int:
        """Return the bytes of working memory that do not depend on the context."""
        item, chunk = ITEM[dtype], batching.chunk
        logits = batching.slots * self.row * 4 * _LOGIT_COPIES
        spare = _TRASH_PAGES + (_LEFT_OVER if self.has_windows else 0)
        trash = spare * PAGE * max(self.sector, self.cache_per_token) * item if chunk else 0
        unpacked = self.largest * item if bits != 16 else 0
        return chunk * (self.step + chunk) * item + logits + trash + unpacked + self._windows(batching) * item

    @property
    def has_windows(self) -> bool:
        """Tell whether some layers look back only so far; a context may still be shorter than that."""
        return bool(self.window_cache) or self.sector != self.every_layer

    @property
    def _masks(self) -> int:
        return 2 if self.has_windows else 1

    def _windows(self, batching: Batching) -> int:
        """Return the numbers that windows keep, and what the library reckons with for whatever it may read of them."""
        kept = batching.conversations * self.window_cache
        if not batching.chunk:
            return kept
        tokens = kept // (self.cache_per_token or self.every_layer or 1)
        return kept + tokens * (self.reads + self._masks * batching.chunk)


def is_batched(size: Dimensions) -> bool:
    """Tell whether transformers computes several requests to such a model in one batch, and rightly.

    Gemma 2 caps its attention scores, which no batched attention does; a T5 has an encoder; positions that stretch with
    the longest request of a batch would move everybody else's.
    """
    return size.kind in BATCHED and not size.stretches


def pages(context: int, room: int, per_token: int, *, conversations: int) -> int:
    """Return how many pages of cache to take: so many full conversations if there is room, one at least.

    All of it is taken at once, so it is bounded by what is likely used; if conversations grow beyond it together, some
    wait and are computed again. ``per_token``: see ``Need.token``.
    """
    one = -(-context // PAGE) + 1
    affordable = room // max(1, per_token * PAGE)
    return max(one, min(affordable, one * conversations))


def blocks(need: Need, taken: int, batching: Batching) -> int:
    """Return how many pages of all layers to ask the paged cache for, so that it holds ``taken`` of those layers that
    look back without end, and the windows of the others.

    The library gives out sectors, which either sort of layer cuts into whole pages (``PagedAttentionCache``); what one
    full conversation may leave over of them comes on top, so that it always fits.
    """
    if not need.has_windows:
        return taken
    numbers = taken * PAGE * need.cache_per_token + batching.conversations * need.window_cache
    sectors = -(-numbers // (PAGE * need.sector)) + _LEFT_OVER
    return -(-sectors * need.sector // need.every_layer)


def need_of(size: Dimensions, context: int = 0) -> Need:
    """Return a model in numbers; ``context`` 0 is what it was made for."""
    return count(size, size.distinct(), context or size.context)


def count(size: Dimensions, tensors: Iterable[tuple[TensorShape, int]], context: int) -> Need:
    """Return a model in numbers; ``tensors`` come with how often they are there."""
    matrices = others = rows = number = kept = largest = 0
    for tensor, times in tensors:
        if size.kind == T5 and tensor.name.endswith(".wo.weight"):
            kept += tensor.count * times  # transformers computes these in float32: float16 is too narrow for them
        elif tensor.role in (Role.MATRIX, Role.EXPERT):
            matrices += tensor.count * times
            rows += tensor.shape[0] * times
            number += times
            largest = max(largest, tensor.count)
        else:
            others += tensor.count * times
    per_token, window_cache = _cache(size, context)
    windowed = size.window_layers if size.window else 0
    share = lcm(size.layers - windowed or 1, windowed or 1)
    own = 2 * size.keys if size.kind == T5 else 0
    return Need(
        matrices, others, per_token, context, rows, number, kept, window_cache,
        every_layer=2 * size.keys * size.layers,
        sector=2 * size.keys * share,
        reads=2 * size.queries + size.keys + own,
        step=4 * size.hidden + max(size.queries + 2 * size.keys, 3 * size.ffn),
        row=size.vocab,
        largest=largest,
    )  # fmt: skip


def _cache(size: Dimensions, context: int) -> tuple[int, int]:
    """Return the numbers that each token keeps, and those that layers with a window keep in all."""
    layer = 2 * size.keys
    if size.kind == T5:  # of the reply, and of the prompt
        return 2 * layer * size.layers, 0
    if size.window is None or size.window >= context:
        return layer * size.layers, 0
    return layer * (size.layers - size.window_layers), layer * size.window_layers * size.window
