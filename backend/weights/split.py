"""Cutting one tensor into the parts that model-parallel shards hold, and Hugging Face's head order into Meta's: the
inverse of ``join``.

Every function takes lazy tensors; nothing is read here but what the writer asks for. Knows nothing about files or which
tensor is cut how.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from math import prod

from backend.weights.checkpoint import SLAB_BYTES, Tensor
from backend.weights.dtypes import Array, itemsize


class Cut(Enum):
    """How shards share a tensor: its rows, its columns, or every shard has all of it."""

    ROWS = "rows"
    COLUMNS = "columns"
    COPY = "copy"


@dataclass(frozen=True)
class Piece:
    """A tensor of the model under the ``name`` it has in the shards; ``source`` is its Hugging Face name.

    Shard number k has rows or columns ``bounds[k]`` to ``bounds[k + 1]``.
    """

    name: str
    source: str
    tensor: Tensor
    cut: Cut
    bounds: tuple[int, ...]

    def shape(self, shard: int) -> tuple[int, ...]:
        """Return the shape of one shard's part."""
        size, (rows, *rest) = self.bounds[shard + 1] - self.bounds[shard], self.tensor.shape
        if self.cut is Cut.ROWS:
            return (size, *rest)
        return (rows, size) if self.cut is Cut.COLUMNS else self.tensor.shape

    def nbytes(self, shard: int) -> int:
        """Return the bytes of one shard's part."""
        return prod(self.shape(shard)) * itemsize(self.tensor.dtype)

    def cuts(self, slab_bytes: int = SLAB_BYTES) -> Iterator[tuple[int, int]]:
        """Yield start and stop of slabs of the whole tensor's rows, in order; where rows are shared, none belongs to
        two shards."""
        if self.cut is not Cut.ROWS:
            yield from self.tensor.cuts(slab_bytes)
            return
        for start, stop in pairwise(self.bounds):
            part = replace(self.tensor, shape=(stop - start, *self.tensor.shape[1:]))
            for first, last in part.cuts(slab_bytes):
                yield start + first, start + last

    def parts(self, slab: Array, start: int) -> Iterator[tuple[int, Array]]:
        """Yield (shard, what it gets) of a slab whose first row is ``start``."""
        if self.cut is Cut.ROWS:
            yield bisect_right(self.bounds, start) - 1, slab
            return
        for shard, (left, right) in enumerate(pairwise(self.bounds)):
            yield shard, slab[:, left:right] if self.cut is Cut.COLUMNS else slab


def even_bounds(length: int, shards: int) -> tuple[int, ...]:
    """Return where to cut: equal parts, and what does not divide goes to the last one (49953 by 2: 24976, 24977)."""
    return (*(shard * (length // shards) for shard in range(shards)), length)


def pairs_from_halves(tensor: Tensor, head_dim: int) -> Tensor:
    """Return query or key rows in Meta's order: Meta row (h, 2 * j + s) is Hugging Face row (h, s * head_dim / 2 + j).

    The inverse of ``join.halves_from_pairs``.
    """

    def rows(start: int, stop: int) -> Array:
        first, last = start // head_dim, math.ceil(stop / head_dim)  # whole heads around what is asked for
        halves = tensor.rows(first * head_dim, last * head_dim)
        rest = halves.shape[1:]
        heads = halves.reshape(last - first, 2, head_dim // 2, *rest).swapaxes(1, 2).reshape(-1, *rest)
        return heads[start - first * head_dim : stop - first * head_dim]

    return Tensor(tensor.dtype, tensor.shape, rows, head_dim, tensor.files)
