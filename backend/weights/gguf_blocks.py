"""Rows of weights in the number formats of GGUF: plain floats, and blocks of 8, 6 or 4 bits with their scales.

The blocks are made by ggml itself, the library that computes with them: one plain C function of the ``xllamacpp`` wheel
(ggml.h, ``ggml_quantize_chunk``), which lets other threads run. Knows nothing about files, names or models.
"""

import ctypes
import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from typing import NamedTuple

import numpy as np

from backend.errors import UsageError
from backend.weights.dtypes import Array, to_float32


class Format(NamedTuple):
    """One number format: its number in ggml.h (``ggml_type``), and that ``block`` weights of a row take ``size``
    bytes."""

    number: int
    block: int
    size: int

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of an array of that shape."""
        return prod(shape) // self.block * self.size


# Block sizes: ggml-common.h, block_q4_0, block_q8_0, block_q4_K, block_q6_K.
FORMATS: Mapping[str, Format] = {
    "F32": Format(0, 1, 4),
    "F16": Format(1, 1, 2),
    "Q4_0": Format(2, 32, 18),
    "Q8_0": Format(8, 32, 34),
    "Q4_K": Format(12, 256, 144),
    "Q6_K": Format(14, 256, 210),
}
_INSTEAD: Mapping[str, str] = {"Q4_K": "Q4_0", "Q6_K": "Q8_0", "Q4_0": "F16", "Q8_0": "F16"}


def fitting(name: str, columns: int) -> str:
    """Return the format, or the next one with blocks that rows of so many columns divide into."""
    while columns % FORMATS[name].block:
        name = _INSTEAD[name]
    return name


def encode(array: Array, *, dtype: str, target: str) -> Array:
    """Return rows [R, N] or numbers [N] of the safetensors format ``dtype`` as bytes (uint8, flat) of a GGUF format.

    Numbers beyond the largest float16 become infinite in F16: whoever calls looks.

    Raises:
        UsageError: the library that makes blocks is not installed.
    """
    if target == "F16" and dtype == "F16":
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    wide = np.ascontiguousarray(to_float32(array, dtype))
    if target == "F32":
        return wide.reshape(-1).view(np.uint8)
    if target == "F16":
        with np.errstate(over="ignore"):
            return wide.astype(np.float16).reshape(-1).view(np.uint8)
    kind = FORMATS[target]
    made = np.empty(kind.nbytes(wide.shape), np.uint8)
    columns = wide.shape[-1]
    _quantise()(kind.number, wide.ctypes.data, made.ctypes.data, 0, wide.size // columns, columns, None)
    return made


@cache
def _quantise() -> Callable[..., int]:
    """Return ``ggml_quantize_chunk(type, from, to, first, rows, columns, importance)``."""
    found = importlib.util.find_spec("xllamacpp")
    found = found and importlib.util.find_spec("xllamacpp.xllamacpp")
    if found is None or found.origin is None:
        raise UsageError("engine.package_missing", missing="xllamacpp", pip="xllamacpp")
    function = ctypes.CDLL(found.origin).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    pointer, many = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, many, many, many, pointer]
    return function
