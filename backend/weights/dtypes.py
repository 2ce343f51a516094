"""Number formats of stored tensors, by their safetensors names. Knows nothing about files or tensors.

numpy has no bfloat16: its bits travel as ``uint16``, and only ``arithmetic`` gives them meaning.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NUMPY: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
FLOATS = ("F32", "F16", "BF16")  # what a model's weights may be
CONFIG_NAMES: Mapping[str, str] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# Exponent bits of each float format; all of them set means infinity or not-a-number (IEEE 754).
_EXPONENT: Mapping[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}


def itemsize(dtype: str) -> int:
    """Return the bytes of one number."""
    return NUMPY[dtype].itemsize


def all_finite(array: Array, dtype: str) -> bool:
    """Tell whether no number is infinite or not-a-number; integers always are finite."""
    if dtype not in _EXPONENT:
        return True
    unsigned, mask = _EXPONENT[dtype]
    bits = np.ascontiguousarray(array).view(unsigned)
    kept = np.bitwise_and(bits, bits.dtype.type(mask))
    return bool(kept.max(initial=0) != mask)


def to_float32(array: Array, dtype: str) -> NDArray[np.float32]:
    """Return the numbers as float32; exact for F16, BF16 and F32, which may come back as it is."""
    if dtype == "BF16":
        wide = array.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return array.astype(np.float32, copy=False)
