"""Changing the number format of a checkpoint, lazily. Knows nothing about why one would."""

from dataclasses import replace

from backend.errors import UsageError, WeightsError
from backend.weights import arithmetic
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.dtypes import CONFIG_NAMES, FLOATS, Array, all_finite


def cast(checkpoint: Checkpoint, dtype: str) -> Checkpoint:
    """Return the checkpoint with every tensor in ``dtype`` ("F16", "BF16" or "F32"), rounded to nearest even.

    Raises:
        UsageError: another format.
    """
    if dtype not in FLOATS:
        raise UsageError("weights.dtype_choice", dtype=dtype[:20], known=", ".join(FLOATS))
    tensors = {name: cast_tensor(tensor, dtype, name=name) for name, tensor in checkpoint.items()}
    return replace(checkpoint, tensors=tensors, made_of=(*checkpoint.made_of, f"as {dtype}"))


def cast_tensor(tensor: Tensor, dtype: str, *, name: str) -> Tensor:
    """Return one tensor in another format, or itself; whole numbers (positions, masks) stay what they are.

    Raises:
        WeightsError: when read, if numbers are too large for the format and would become infinite: float16 ends at
            65504, bfloat16 only where float32 does.
    """
    if tensor.dtype == dtype or tensor.dtype not in FLOATS:
        return tensor

    def rows(start: int, stop: int) -> Array:
        found = arithmetic.cast(tensor.rows(start, stop), source=tensor.dtype, target=dtype)
        if dtype != "F32" and not all_finite(found, dtype):
            _refuse_overflow(tensor, dtype, name)
        return found

    return Tensor(dtype, tensor.shape, rows, tensor.unit, tensor.files)


def _refuse_overflow(tensor: Tensor, dtype: str, name: str) -> None:
    """Say how many numbers of the tensor are lost; those that were infinite before are for others to find."""
    lost = sum(arithmetic.overflows(slab, source=tensor.dtype, target=dtype) for slab in tensor.slabs())
    if lost:
        raise WeightsError("cast.overflow", name=name, count=lost, target=CONFIG_NAMES[dtype])
