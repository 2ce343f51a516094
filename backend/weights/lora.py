"""Folding a LoRA adapter into a checkpoint, lazily: whole tensors replaced first, then low-rank products added.

Each call rounds once to the checkpoint's number format, so several adapters are folded in the order of the calls, as
merge_and_unload and Chinese-LLaMA-Alpaca's scripts do. Knows nothing about files or output.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from backend.errors import WeightsError
from backend.text import Message
from backend.weights import arithmetic
from backend.weights.adapter import Adapter, LowRank, open_adapter
from backend.weights.cast import cast_tensor
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.dtypes import Array
from backend.weights.shape import EMBED, HEAD

# A product of a few rows takes another path through the matrix library and rounds differently, one of 16 rows or more
# does not: blocks of 64, counted from the first row, give the same bits whatever slab was asked for.
_BLOCK = 64


def add_lora(checkpoint: Checkpoint, adapter_folder: Path, *, scale: float | None = None) -> Checkpoint:
    """Return the checkpoint with the adapter of a folder folded in.

    ``scale`` multiplies the strength the adapter was trained with (None: 1). Whole tensors in the adapter replace the
    model's whatever the scale; they may bring new vocabulary rows.

    Raises:
        WeightsError: the adapter is for another model, or cannot be folded exactly.
    """
    adapter = open_adapter(adapter_folder)
    rows = _vocabulary(checkpoint, adapter)
    strength = 1.0 if scale is None else scale
    tensors = {name: _folded(name, checkpoint[name], adapter, strength) for name in checkpoint}
    notes = [*checkpoint.notes, *adapter.notes]
    if rows > checkpoint.shape.vocab:
        notes.append(Message("weights.found.vocabulary_grows", {"before": checkpoint.shape.vocab, "after": rows}))
    if strength != 1.0 and adapter.whole:
        notes.append(Message("weights.found.whole_not_scaled", {"count": len(adapter.whole), "scale": strength}))
    return replace(
        checkpoint,
        tensors=tensors,
        shape=replace(checkpoint.shape, vocab=rows),
        files=checkpoint.files + adapter.files,
        doing="weights.doing.add_lora",
        notes=tuple(notes),
        made_of=(*checkpoint.made_of, f"+lora*{strength}", *_identity(adapter)),
        checks=(*checkpoint.checks, *(record.finish for record in adapter.records)),
    )


def _identity(adapter: Adapter) -> tuple[str, ...]:
    return tuple(f"{file.path.name}:{file.bytes}:{file.path.stat().st_mtime_ns}" for file in adapter.files)


def _vocabulary(checkpoint: Checkpoint, adapter: Adapter) -> int:
    """Return the vocabulary rows of the result, after checking that every tensor of the adapter has its place."""
    for name in (*adapter.pairs, *adapter.whole):
        if name not in checkpoint:
            raise WeightsError("weights.adapter_no_place", name=name, base=adapter.base)
    for name, pair in adapter.pairs.items():
        _check_fit(name, (pair.up.length, pair.down.shape[1]), _shape_after(name, checkpoint, adapter.whole))
        if name == EMBED:
            raise WeightsError("weights.adapter_key", file=adapter.files[0].path.name, name=name)
    for name, tensor in adapter.whole.items():
        wanted = checkpoint[name].shape
        if name in (EMBED, HEAD):
            _check_fit(name, tensor.shape[1:], wanted[1:])
            if tensor.length < wanted[0]:
                raise WeightsError("weights.adapter_fewer_rows", name=name, rows=tensor.length, base=wanted[0])
        else:
            _check_fit(name, tensor.shape, wanted)
    embed, head = (_shape_after(name, checkpoint, adapter.whole) for name in (EMBED, HEAD))
    if head is not None and embed is not None and head[0] != embed[0]:
        raise WeightsError("weights.adapter_one_sided", embed=embed[0], head=head[0])
    return embed[0] if embed else checkpoint.shape.vocab


def _shape_after(name: str, checkpoint: Checkpoint, whole: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    tensor = whole.get(name) or checkpoint.tensors.get(name)
    return tensor.shape if tensor else None


def _check_fit(name: str, found: tuple[int, ...], wanted: tuple[int, ...] | None) -> None:
    if found != wanted:
        raise WeightsError(
            "weights.adapter_other_size", name=name, found=str(list(found)), expected=str(list(wanted or ()))
        )


def _folded(name: str, tensor: Tensor, adapter: Adapter, strength: float) -> Tensor:
    if name in adapter.whole:
        tensor = cast_tensor(adapter.whole[name], tensor.dtype)
    return _add(tensor, adapter.pairs[name], strength) if name in adapter.pairs else tensor


def _add(base: Tensor, pair: LowRank, strength: float) -> Tensor:
    def rows(start: int, stop: int) -> Array:
        first, last = _blocks(start, stop, base.length)
        summed = arithmetic.add_low_rank(
            base.rows(first, last),
            pair.up.rows(first, last),
            pair.down.array(),  # read again for each slab: a few MB, and nothing stays in memory
            scale=pair.scale * strength,
            dtypes=(base.dtype, pair.up.dtype, pair.down.dtype),
        )
        return summed[start - first : stop - first]

    return Tensor(base.dtype, base.shape, rows, math.lcm(base.unit, _BLOCK))


def _blocks(start: int, stop: int, length: int) -> tuple[int, int]:
    """Return whole blocks around some rows; the rows after the last whole block belong to it."""
    whole = max(1, length // _BLOCK)  # blocks; the last one takes the rest
    first = min(start // _BLOCK, whole - 1)
    last = math.ceil(stop / _BLOCK)
    return first * _BLOCK, length if last >= whole else last * _BLOCK
