"""Folding a LoRA adapter into a checkpoint, lazily: whole tensors and rows replaced first, then products added.

Each call rounds once to the checkpoint's number format, so several adapters are folded in the order of the calls, as
merge_and_unload and Chinese-LLaMA-Alpaca's scripts do. Knows nothing about files or output.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backend.text import Message
from backend.weights import arithmetic
from backend.weights.adapter import Adapter, LowRank, open_adapter
from backend.weights.adapter_config import FILE as SETTINGS
from backend.weights.as_is import AsIs
from backend.weights.cast import cast_tensor
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.dtypes import Array
from backend.weights.lora_fit import check_kind, check_lora
from backend.weights.partial import hash_file
from backend.weights.shape import EMBED, HEAD, Shape

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
    checkpoint, adapter = check_kind(checkpoint), open_adapter(adapter_folder)
    rows, warnings = check_lora(checkpoint, adapter)
    strength = 1.0 if scale is None else scale
    before = checkpoint.shape
    tensors = {name: _folded(name, checkpoint[name], adapter, strength) for name in checkpoint}
    notes = [*checkpoint.notes, *adapter.notes, *warnings]
    untied = HEAD not in checkpoint and (HEAD in adapter.names or EMBED in adapter.embeds)
    if untied:  # trained apart, so they stay apart: what is added to one of them, PEFT never adds to the other
        tensors[HEAD] = _folded(HEAD, _replaced(EMBED, checkpoint[EMBED], adapter), adapter, strength)
        notes.append(Message("lora.found.untied"))
    if rows > before.vocab:
        notes.append(Message("weights.found.vocabulary_grows", {"before": before.vocab, "after": rows}))
    if not strength:
        notes.append(Message("lora.found.scale_zero"))
    unscaled = len(adapter.whole) + len(adapter.tokens)
    if strength != 1.0 and unscaled:
        notes.append(Message("weights.found.whole_not_scaled", {"count": unscaled, "scale": strength}))
    return replace(
        checkpoint,
        tensors=tensors,
        shape=_shape(before, rows, untied=untied),
        files=(*checkpoint.files, adapter.file),
        doing="weights.doing.add_lora",
        notes=tuple(notes),
        made_of=(*checkpoint.made_of, f"+lora*{strength}", _identity(adapter)),
        checks=(*checkpoint.checks, *(record.finish for record in adapter.records)),
    )


def _shape(before: Shape, rows: int, *, untied: bool) -> Shape:
    after = replace(before, vocab=rows, tie=before.tie and not untied)
    if isinstance(after, AsIs) and untied:
        return replace(after, config={**after.config, "tie_word_embeddings": False})
    return after


def _identity(adapter: Adapter) -> str:
    """Name the adapter's numbers and its settings: with another alpha it makes another model."""
    file = adapter.file
    return f"{file.path.name}:{file.bytes}:{file.path.stat().st_mtime_ns}:{hash_file(adapter.folder / SETTINGS)}"


def _folded(name: str, tensor: Tensor, adapter: Adapter, strength: float) -> Tensor:
    tensor = _replaced(name, tensor, adapter)
    if name in adapter.tokens:
        rows, values = adapter.tokens[name]
        return _with_rows(tensor, rows, cast_tensor(values, tensor.dtype, name=name))
    if name in adapter.pairs:
        return _add(tensor, adapter.pairs[name], strength)
    return _add_turned(tensor, adapter.embeds[name], strength) if name in adapter.embeds else tensor


def _replaced(name: str, tensor: Tensor, adapter: Adapter) -> Tensor:
    return cast_tensor(adapter.whole[name], tensor.dtype, name=name) if name in adapter.whole else tensor


def _add(base: Tensor, pair: LowRank, strength: float) -> Tensor:
    def rows(start: int, stop: int) -> Array:
        first, last = _blocks(start, stop, base.length)
        parts = base.rows(first, last), pair.up.rows(first, last)
        down = pair.down.array()  # read again for each slab: a few MB, and nothing stays in memory
        dtypes = base.dtype, pair.up.dtype, pair.down.dtype
        scale = pair.scale * strength
        if pair.magnitude is None:
            summed = arithmetic.add_low_rank(*parts, down, scale=scale, dtypes=dtypes)
        else:
            summed = arithmetic.add_directed(
                *parts,
                down,
                lengths=pair.magnitude.rows(first, last),
                scale=scale,
                dtypes=(*dtypes, pair.magnitude.dtype),
            )
        return summed[start - first : stop - first]

    return Tensor(base.dtype, base.shape, rows, math.lcm(base.unit, _BLOCK), base.files | pair.files)


def _add_turned(base: Tensor, pair: LowRank, strength: float) -> Tensor:
    """Add a product that lies the other way round: its columns are the table's rows."""

    def rows(start: int, stop: int) -> Array:
        first, last = _blocks(start, stop, base.length)
        summed = arithmetic.add_low_rank_turned(
            base.rows(first, last),
            pair.up.array(),
            pair.down.array()[:, first:last],
            scale=pair.scale * strength,
            dtypes=(base.dtype, pair.up.dtype, pair.down.dtype),
        )
        return summed[start - first : stop - first]

    return Tensor(base.dtype, base.shape, rows, math.lcm(base.unit, _BLOCK), base.files | pair.files)


def _with_rows(base: Tensor, places: Sequence[int], values: Tensor) -> Tensor:
    """Put the rows of ``values`` in the given places of a table; neighbours are read together."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    runs: list[tuple[int, int, int]] = []  # (place, row of values, count)
    for index in order:
        place, row, count = runs[-1] if runs else (-1, -1, 0)
        if count and (places[index], index) == (place + count, row + count):
            runs[-1] = (place, row, count + 1)
        else:
            runs.append((places[index], index, 1))

    def rows(start: int, stop: int) -> Array:
        found = base.rows(start, stop)
        for place, row, count in runs:
            first, last = max(place, start), min(place + count, stop)
            if first < last:
                found[first - start : last - start] = values.rows(row + first - place, row + last - place)
        return found

    return Tensor(base.dtype, base.shape, rows, base.unit, base.files | values.files)


def _blocks(start: int, stop: int, length: int) -> tuple[int, int]:
    """Return whole blocks around some rows; the rows after the last whole block belong to it."""
    whole = max(1, length // _BLOCK)  # blocks; the last one takes the rest
    first = min(start // _BLOCK, whole - 1)
    last = math.ceil(stop / _BLOCK)
    return first * _BLOCK, length if last >= whole else last * _BLOCK
