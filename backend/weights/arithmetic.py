"""Sums and matrix products on slabs, rounded as the reference tools round. The only module here that needs torch.

torch is imported inside the functions: it costs 1.6 s and 220 MB, which plain conversion does not need; but it adds
fp16 about twenty times faster than numpy. Knows nothing about files, names or models.

Letters: R rows of a slab, N columns, K rank.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backend.weights.dtypes import Array

if TYPE_CHECKING:
    import torch


def add(left: Array, right: Array, *, left_dtype: str, right_dtype: str) -> Array:
    """Return ``left + right`` in the dtype of ``left``: one sum in float32, rounded once.

    That is what ``left += right`` does on a CPU for every pair of F16, BF16 and F32, element by element, so the size of
    a slab changes no bit (FastChat's apply_delta works on whole tensors).
    """
    first, second = _tensor(left, left_dtype), _tensor(right, right_dtype)
    return _array(_round(first.float() + second.float(), left_dtype) if first.dtype != second.dtype else first + second)


def add_low_rank(base: Array, up: Array, down: Array, *, scale: float, dtypes: tuple[str, str, str]) -> Array:
    """Return ``base + scale * (up @ down)`` for base [R, N], up [R, K], down [K, N], in the dtype of ``base``.

    Product, scale and sum are float32 and rounded once: the bits of peft up to 0.6 and from 0.12 on, and of
    Chinese-LLaMA-Alpaca's merge scripts. ``dtypes`` names the formats of base, up and down.
    """
    base_dtype, up_dtype, down_dtype = dtypes
    product = _tensor(up, up_dtype).float() @ _tensor(down, down_dtype).float()
    product *= scale
    product += _tensor(base, base_dtype)
    return _array(_round(product, base_dtype))


def cast(array: Array, *, source: str, target: str) -> Array:
    """Return the numbers in another format, rounded to nearest even."""
    return array if source == target else _array(_round(_tensor(array, source).float(), target))


def _dtype(name: str) -> "torch.dtype":
    import torch

    return {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}[name]


def _tensor(array: Array, dtype: str) -> "torch.Tensor":
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(torch.bfloat16) if dtype == "BF16" else tensor


def _round(tensor: "torch.Tensor", dtype: str) -> "torch.Tensor":
    return tensor.to(_dtype(dtype))


def _array(tensor: "torch.Tensor") -> NDArray[Any]:
    import torch

    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
