"""Putting one tensor together from the parts that model-parallel shards hold, and Meta's head order into Hugging
Face's.

Every function takes lazy tensors and returns a lazy tensor; nothing is read here. Knows nothing about files or names.

Axes: [rows, columns]. Meta's ColumnParallel layers and Llama-3 embeddings are cut along rows, its RowParallel layers
and LLaMA-1/2 embeddings along columns (llama/model.py and fairscale's parallel layers).
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from backend.errors import WeightsError
from backend.weights.checkpoint import Tensor
from backend.weights.dtypes import NUMPY, Array


def join_rows(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts one below the other."""
    if len(parts) == 1:
        return parts[0]
    starts = [0, *accumulate(part.length for part in parts)]

    def rows(start: int, stop: int) -> Array:
        pieces = []
        index = bisect_right(starts, start) - 1
        while start < stop:
            end = min(stop, starts[index + 1])
            pieces.append(parts[index].rows(start - starts[index], end - starts[index]))
            start, index = end, index + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    return Tensor(parts[0].dtype, (starts[-1], *parts[0].shape[1:]), rows, parts[0].unit, _files(parts))


def join_columns(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts side by side: a slab of rows needs the same rows of every part."""
    if len(parts) == 1:
        return parts[0]
    ends = list(accumulate(part.shape[1] for part in parts))

    def rows(start: int, stop: int) -> Array:
        joined = np.empty((stop - start, ends[-1]), NUMPY[parts[0].dtype])
        for part, end in zip(parts, ends, strict=True):
            joined[:, end - part.shape[1] : end] = part.rows(start, stop)
        return joined

    return Tensor(parts[0].dtype, (parts[0].length, ends[-1]), rows, files=_files(parts))


def same_in_all(parts: Sequence[Tensor], name: str) -> Tensor:
    """Return the first part, after comparing it with the others while it is read.

    Raises:
        WeightsError: when read, if the parts differ: shards of different models were mixed.
    """
    if len(parts) == 1:
        return parts[0]

    def rows(start: int, stop: int) -> Array:
        first = parts[0].rows(start, stop)
        for shard, part in enumerate(parts[1:], 1):
            if part.rows(start, stop).tobytes() != first.tobytes():
                raise WeightsError("weights.shards_differ", name=name, shard=shard)
        return first

    return Tensor(parts[0].dtype, parts[0].shape, rows, files=_files(parts))


def without_copies(tensor: Tensor, *, head_dim: int, copies: int, name: str) -> Tensor:
    """Return key or value heads without the copies behind each, after comparing them with it while they are read.

    Where there are more shards than key heads, as in Llama 3.1 405B in 16 parts, every shard has a head of its own only
    because each is stored several times in a row.

    Raises:
        WeightsError: when read, if the copies differ.
    """

    def rows(start: int, stop: int) -> Array:
        first, last = start // head_dim, math.ceil(stop / head_dim)  # whole heads around what is asked for
        stored = tensor.rows(first * copies * head_dim, last * copies * head_dim)
        rest = stored.shape[1:]
        heads = stored.reshape(last - first, copies, head_dim, *rest)
        for copy in range(1, copies):
            if heads[:, copy].tobytes() != heads[:, 0].tobytes():
                raise WeightsError("meta.copies_differ", name=name, copies=copies)
        return heads[:, 0].reshape(-1, *rest)[start - first * head_dim : stop - first * head_dim]

    return Tensor(tensor.dtype, (tensor.length // copies, *tensor.shape[1:]), rows, head_dim, tensor.files)


def halves_from_pairs(tensor: Tensor, head_dim: int) -> Tensor:
    """Return query or key rows in Hugging Face's order: within a head, all even Meta rows, then all odd ones.

    Meta turns neighbouring rows against each other, Hugging Face a row and the one half a head below it, so
    HF row (h, s * head_dim / 2 + j) is Meta row (h, 2 * j + s).
    """

    def rows(start: int, stop: int) -> Array:
        first, last = start // head_dim, math.ceil(stop / head_dim)  # whole heads around what is asked for
        pairs = tensor.rows(first * head_dim, last * head_dim)
        rest = pairs.shape[1:]
        heads = pairs.reshape(last - first, head_dim // 2, 2, *rest).swapaxes(1, 2).reshape(-1, *rest)
        return heads[start - first * head_dim : stop - first * head_dim]

    return Tensor(tensor.dtype, tensor.shape, rows, head_dim, tensor.files)


def _files(parts: Sequence[Tensor]) -> frozenset[Path]:
    return frozenset[Path]().union(*(part.files for part in parts))
