"""More embedding rows than a model has: zero, or the mean of the rows that are there. Knows nothing about tokenizers.

Source of the mean: tatsu-lab/stanford_alpaca ``weight_diff.py``, which fills the row for [PAD] with
``embeddings.mean(dim=0)`` in float32.
"""

from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np

from backend.errors import WeightsError
from backend.text import Message
from backend.weights import arithmetic
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.dtypes import NUMPY, Array
from backend.weights.shape import EMBED, HEAD

Fill = Literal["zero", "mean"]


def resize_vocabulary(checkpoint: Checkpoint, rows: int, *, fill: Fill = "zero") -> Checkpoint:
    """Return the checkpoint with so many embedding rows, going in and coming out; the new ones are zero or a mean.

    Raises:
        WeightsError: fewer rows than there are: words would be lost.
    """
    before = checkpoint.llama.vocab
    if rows < before:
        raise WeightsError("lora.fewer_rows", rows=rows, base=before)
    if rows == before:
        return checkpoint
    tensors = {
        name: extended(tensor, rows, fill=fill) if name in (EMBED, HEAD) else tensor
        for name, tensor in checkpoint.items()
    }
    return replace(
        checkpoint,
        tensors=tensors,
        shape=replace(checkpoint.llama, vocab=rows),
        notes=(*checkpoint.notes, Message("lora.found.rows_added", {"before": before, "after": rows})),
        made_of=(*checkpoint.made_of, f"rows {rows} {fill}"),
    )


def extended(tensor: Tensor, rows: int, *, fill: Fill) -> Tensor:
    """Return a matrix with more rows, in its own number format. The mean is computed when first asked for."""
    length = tensor.length
    if rows == length:
        return tensor

    @cache
    def filling() -> Array:
        if fill == "zero":
            return np.zeros(tensor.shape[1:], NUMPY[tensor.dtype])
        return arithmetic.cast(mean_row(tensor), source="F32", target=tensor.dtype)

    def read(start: int, stop: int) -> Array:
        if stop <= length:
            return tensor.rows(start, stop)
        new = np.tile(filling(), (stop - max(start, length), 1))
        return np.concatenate([tensor.rows(start, length), new]) if start < length else new

    return Tensor(tensor.dtype, (rows, *tensor.shape[1:]), read, tensor.unit, tensor.files)


def mean_row(tensor: Tensor) -> Array:
    """Return the mean of all rows of a matrix, in float32."""
    slabs = (arithmetic.cast(slab, source=tensor.dtype, target="F32") for slab in tensor.slabs())
    return arithmetic.column_means(slabs, tensor.length)
