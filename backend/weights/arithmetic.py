"""Sums and matrix products on slabs, rounded as the reference tools round. The only module here that needs torch.

torch is imported inside the functions: it costs 1.6 s and 220 MB, which plain conversion does not need; but it adds
fp16 about twenty times faster than numpy. Knows nothing about files, names or models.

Letters: R rows of a slab, N columns, K rank.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backend.weights.dtypes import Array, to_float32

if TYPE_CHECKING:
    import torch

_TILE = 128  # rows of a product whose float32 numbers fit the second-level cache, or nearly
_LEAST = 64  # rows; a product of fewer than 16 takes another path through the matrix library and rounds differently


def add(left: Array, right: Array, *, left_dtype: str, right_dtype: str) -> Array:
    """Return ``left + right`` in the dtype of ``left``, which is overwritten: one sum in float32, rounded once.

    That is what ``left += right`` does on a CPU for every pair of F16, BF16 and F32, element by element, so the size of
    a slab changes no bit (FastChat's apply_delta works on whole tensors).
    """
    total = _tensor(left, left_dtype)
    total += _tensor(right, right_dtype)
    return _array(total)


def add_low_rank(base: Array, up: Array, down: Array, *, scale: float, dtypes: tuple[str, str, str]) -> Array:
    """Return ``base + scale * (up @ down)`` for base [R, N], up [R, K], down [K, N]; ``base`` is overwritten.

    Product, scale and sum are float32 and rounded once: the bits of peft up to 0.6 and from 0.12 on, and of
    Chinese-LLaMA-Alpaca's merge scripts. ``dtypes`` names the formats of base, up and down.
    """
    import torch

    base_dtype, up_dtype, down_dtype = dtypes
    total = _tensor(base, base_dtype)
    left, right = _tensor(up, up_dtype).float(), _tensor(down, down_dtype).float()
    room = torch.empty(min(len(total), 2 * _TILE), total.shape[1])
    for start, stop in _tiles(len(total)):
        tile = room[: stop - start]
        torch.mm(left[start:stop], right, out=tile)
        tile *= scale
        tile += total[start:stop]
        total[start:stop] = tile
    return _array(total)


def _tiles(rows: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of tiles that stay in the processor's cache; a short rest joins the tile before it."""
    starts = range(0, max(1, rows - _LEAST + 1), _TILE)
    yield from zip(starts, (*starts[1:], rows), strict=True)


def add_low_rank_turned(base: Array, up: Array, down: Array, *, scale: float, dtypes: tuple[str, str, str]) -> Array:
    """Return ``base + scale * (up @ down).T`` for base [R, N], up [N, K], down [K, R]: a LoRA on an embedding table.

    The product is rounded to the dtype of ``base`` before it is added: the two roundings of peft 0.16 and later.
    """
    base_dtype, up_dtype, down_dtype = dtypes
    product = _tensor(up, up_dtype).float() @ _tensor(down, down_dtype).float()
    product *= scale
    return _array(_tensor(base, base_dtype) + _round(product, base_dtype).T.contiguous())


def add_directed(
    base: Array, up: Array, down: Array, *, lengths: Array, scale: float, dtypes: tuple[str, str, str, str]
) -> Array:
    """Return the rows of ``base + scale * (up @ down)``, each stretched to its length in ``lengths`` [R]: DoRA.

    All of it is float32 and rounded once to the dtype of ``base`` (peft ``tuners/lora/variants.py``; a row's norm does
    not depend on its neighbours, so the size of a slab changes no bit). ``dtypes`` ends with that of ``lengths``.
    """
    import torch

    base_dtype, up_dtype, down_dtype, length_dtype = dtypes
    rows = _tensor(up, up_dtype).float() @ _tensor(down, down_dtype).float()
    rows *= scale
    rows += _tensor(base, base_dtype)
    factors = _tensor(lengths, length_dtype).float() / torch.linalg.norm(rows, dim=1)
    rows *= factors.view(-1, 1)
    return _array(_round(rows, base_dtype))


def column_means(slabs: Iterable[Array], count: int) -> Array:
    """Return the mean of each column of ``count`` float32 rows, which come in slabs from the first to the last.

    Adds in the order of torch's ``mean(dim=0)``, which differs from numpy's in the last bit of most columns: rows in
    groups of a power of two, groups of groups, four levels (aten ``native/cpu/SumKernel.cpp``, ``multi_row_sum``).
    torch takes another order for the columns that are left over when it works through 32 or 64 at a time.
    """
    power = max(4, (count - 1).bit_length() // 4)
    group = 1 << power
    sums: list[Array] = []
    done = 0
    for slab in slabs:
        for row in slab:
            sums = sums or [np.zeros_like(row) for _ in range(4)]
            sums[0] += row
            done += 1
            for level in range(1, 4 if done % group == 0 else 1):
                sums[level] += sums[level - 1]
                sums[level - 1][:] = 0
                if done & ((group - 1) << (level * power)):
                    break
    return (sums[0] + sums[1] + sums[2] + sums[3]) / np.float32(count)


def cast(array: Array, *, source: str, target: str) -> Array:
    """Return the numbers in another format, rounded to nearest even. Widening is exact and goes without torch."""
    if target == "F32":
        return to_float32(array, source)
    return array if source == target else _array(_round(_tensor(array, source), target))


def overflows(array: Array, *, source: str, target: str) -> int:
    """Return how many finite numbers become infinite in another format."""
    before = _tensor(array, source)
    return int((before.isfinite() & _round(before, target).isinf()).sum())


def _dtype(name: str) -> "torch.dtype":
    import torch

    return {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}[name]


@cache
def _on_one_thread() -> None:
    """Several slabs are made at a time, each on a thread of its own: torch's threads would only get in their way."""
    import torch

    torch.set_num_threads(1)


def _tensor(array: Array, dtype: str) -> "torch.Tensor":
    import torch

    _on_one_thread()
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(torch.bfloat16) if dtype == "BF16" else tensor


def _round(tensor: "torch.Tensor", dtype: str) -> "torch.Tensor":
    return tensor.to(_dtype(dtype))


def _array(tensor: "torch.Tensor") -> NDArray[Any]:
    import torch

    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
