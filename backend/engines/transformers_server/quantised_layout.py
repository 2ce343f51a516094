"""How quantised matrices lie in a file: bitsandbytes' own names (``Linear8bitLt`` and ``Linear4bit`` of its
``nn/modules.py`` write them), and what of such a file is believed.

A matrix of 8 bits comes with one scale a row. One of 4 bits comes as half bytes in a column, a byte for every block of
64, those quantised again in blocks of 256, two tables of numbers, and a small JSON text. Knows nothing about where such
files are, or who made them.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from backend.errors import WeightsError
from backend.fit.formats import NF4_BLOCK, NF4_NESTED
from backend.weights.checkpoint import Tensor
from backend.weights.disk import parse_json

WEIGHT, SCALES = ".weight", ".SCB"
_STATE = "quant_state.bitsandbytes__nf4"
_STATE_LIMIT = 2000  # bytes
_CODES, _NESTED_CODES = 16, 256  # numbers in the two tables


def is_kept(name: str, known: Iterable[str]) -> bool:
    """Tell whether a tensor of a loaded model belongs into the file: the model's own, and what goes with a matrix."""
    owner = name.removesuffix(SCALES) + WEIGHT if name.endswith(SCALES) else name.partition(f"{WEIGHT}.")[0] + WEIGHT
    return name in known or (owner != name and owner in known)


def checked(stored: Mapping[str, Tensor], model: Mapping[str, Tensor], *, bits: int, dtype: str) -> dict[str, Tensor]:
    """Return the tensors of a file after making sure that they are the model's, in ``bits`` and ``dtype``.

    ``model``: the tensors that were quantised; shapes are compared with theirs. ``dtype``: safetensors' name of the
    format of what is not quantised; some models keep a few matrices in F32.

    Raises:
        WeightsError: a tensor is missing, is nobody's, or has another shape or format.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in model.items():
        mine = stored.get(name)
        if mine is None:
            raise _wrong(name)
        if mine.dtype in (dtype, "F32") and mine.shape == tensor.shape:
            found[name] = mine
        else:
            found |= _int8(name, tensor, stored) if bits == 8 else _nf4(name, tensor, stored)
    for name in stored.keys() - found.keys():
        raise _wrong(name)
    return found


def _int8(name: str, tensor: Tensor, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    scales = name.removesuffix(WEIGHT) + SCALES
    wanted = {name: ("I8", tensor.shape), scales: ("F32", tensor.shape[:1])}
    return {one: _as(one, stored, *how) for one, how in wanted.items()}


def _nf4(name: str, tensor: Tensor, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    count = math.prod(tensor.shape)
    blocks = -(-count // NF4_BLOCK)
    wanted = {
        name: ("U8", ((count + 1) // 2, 1)),
        f"{name}.absmax": ("U8", (blocks,)),
        f"{name}.quant_map": ("F32", (_CODES,)),
        f"{name}.nested_absmax": ("F32", (-(-blocks // NF4_NESTED),)),
        f"{name}.nested_quant_map": ("F32", (_NESTED_CODES,)),
    }
    found = {one: _as(one, stored, *how) for one, how in wanted.items()}
    state = f"{name}.{_STATE}"
    found[state] = _state(state, tensor.shape, stored)
    return found


def _state(name: str, shape: tuple[int, ...], stored: Mapping[str, Tensor]) -> Tensor:
    """Return the small JSON text of a matrix, written anew from what is known: only its offset is the file's."""
    tensor = stored.get(name)
    if tensor is None or tensor.dtype != "U8" or len(tensor.shape) != 1 or tensor.nbytes > _STATE_LIMIT:
        raise _wrong(name)
    told = parse_json(tensor.array().tobytes(), name[:120])
    offset, dtype = told.get("nested_offset"), told.get("dtype")
    if not isinstance(offset, float) or not math.isfinite(offset) or dtype not in ("float32", "float16", "bfloat16"):
        raise _wrong(name)
    text = _state_text(shape, offset, dtype)
    return Tensor("U8", (len(text),), lambda start, stop: np.frombuffer(text, np.uint8)[start:stop].copy())


def _state_text(shape: tuple[int, ...], offset: float, dtype: str) -> bytes:
    state: dict[str, Any] = {
        "quant_type": "nf4",
        "blocksize": NF4_BLOCK,
        "dtype": dtype,
        "shape": list(shape),
        "nested_blocksize": NF4_NESTED,
        "nested_dtype": "float32",
        "nested_offset": offset,
    }
    return json.dumps(state).encode()


def _as(name: str, stored: Mapping[str, Tensor], dtype: str, shape: tuple[int, ...]) -> Tensor:
    tensor = stored.get(name)
    if tensor is None or (tensor.dtype, tensor.shape) != (dtype, shape):
        raise _wrong(name)
    return tensor


def _wrong(name: str) -> WeightsError:
    return WeightsError("quantised.store_differs", name=name[:120])
