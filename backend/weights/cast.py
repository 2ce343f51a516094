"""Changing the number format of a checkpoint, lazily. Knows nothing about why one would."""

from dataclasses import replace

from backend.errors import UsageError
from backend.weights import arithmetic
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.dtypes import FLOATS, Array


def cast(checkpoint: Checkpoint, dtype: str) -> Checkpoint:
    """Return the checkpoint with every tensor in ``dtype`` ("F16", "BF16" or "F32"), rounded to nearest even.

    Raises:
        UsageError: another format.
    """
    if dtype not in FLOATS:
        raise UsageError("weights.dtype_choice", dtype=dtype[:20], known=", ".join(FLOATS))
    tensors = {name: cast_tensor(tensor, dtype) for name, tensor in checkpoint.items()}
    return replace(checkpoint, tensors=tensors, made_of=(*checkpoint.made_of, f"as {dtype}"))


def cast_tensor(tensor: Tensor, dtype: str) -> Tensor:
    """Return one tensor in another format, or itself."""
    if tensor.dtype == dtype:
        return tensor

    def rows(start: int, stop: int) -> Array:
        return arithmetic.cast(tensor.rows(start, stop), source=tensor.dtype, target=dtype)

    return Tensor(dtype, tensor.shape, rows, tensor.unit)
