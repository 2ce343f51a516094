"""Writes a checkpoint as one GGUF file, a slab of rows at a time: constant memory, and no half-written file under its
name. Knows nothing about engines or where such files are kept.

The ``gguf`` package writes the head; the tensors follow it, so every offset is known before the first byte.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import Cancelled, WeightsError
from backend.events import Progress
from backend.text import Message
from backend.weights.ahead import made_ahead
from backend.weights.checkpoint import Checkpoint
from backend.weights.dtypes import Array, all_finite
from backend.weights.gguf_blocks import FORMATS, encode
from backend.weights.gguf_kinds import check_convertible
from backend.weights.gguf_layout import Entry, settings, to_gguf_layout
from backend.weights.partial import check_room, writing
from backend.weights.sink import Sink

_ALIGN = 32  # bytes; ggml's GGUF_DEFAULT_ALIGNMENT
_SLAB = 4_000_000  # bytes of source; twice or four times that in float32 while blocks are made of it


def file_bytes(entries: Sequence[Entry]) -> int:
    """Return the bytes of all tensors, each padded to the next offset; the head is some megabytes more."""
    return sum(_padded(entry.nbytes) for entry in entries)


def write_gguf(
    checkpoint: Checkpoint,
    path: Path,
    *,
    kind: str,
    tokenizer: Mapping[str, Any],
    part: Path,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Write a model to ``path`` by way of ``part``, which gets that name when it is whole. Yields source bytes read.

    ``kind`` is one of ``gguf_layout.KINDS``; ``tokenizer`` are the settings that ``gguf_vocabulary`` makes.

    Raises:
        WeightsError: the model cannot be written as GGUF, its files are damaged, or a weight is no finite number.
        MachineError: the disk is full or cannot be written.
        Cancelled: ``cancelled`` said so between two slabs.
    """
    form, entries = check_convertible(checkpoint), to_gguf_layout(checkpoint, kind)
    total, done = sum(entry.tensor.nbytes for entry in entries), 0
    note = Message("gguf.converting")
    with writing(path.parent):
        head = _head(form.arch, entries, {**settings(form, kind=kind, name=path.parent.name), **tokenizer})
        size = len(head) + file_bytes(entries)
        check_room(path.parent, size)
        with Sink(part, size) as sink:
            sink.write(head)
            yield Progress(0, total, note)
            for entry in entries:
                for read, slab in _slabs(entry):
                    if cancelled():
                        raise Cancelled("weights.cancelled")
                    sink.write_slab(slab)
                    done += read
                    yield Progress(done, total, note)
                sink.write(bytes(_padded(entry.nbytes) - entry.nbytes))
            checkpoint.check_sources()
            sink.publish(path)


def _slabs(entry: Entry) -> Iterator[tuple[int, Array]]:
    """Yield (source bytes, bytes of the file) of a tensor from first to last row."""
    return made_ahead(partial(_slab, entry, cut) for cut in entry.tensor.cuts(_SLAB))


def _slab(entry: Entry, cut: tuple[int, int]) -> tuple[int, Array]:
    rows, dtype = entry.tensor.rows(*cut), entry.tensor.dtype
    if not all_finite(rows, dtype):
        raise WeightsError("gguf.not_finite", name=entry.source)
    made = encode(rows, dtype=dtype, target=entry.format)
    if entry.format == "F16" and dtype != "F16" and not all_finite(made, "F16"):
        raise WeightsError("gguf.overflow", name=entry.source)
    return rows.nbytes, made


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _head(arch: str, entries: Sequence[Entry], table: Mapping[str, Any]) -> bytes:
    """Return everything before the first tensor."""
    from gguf import GGMLQuantizationType, GGUFWriter

    with tempfile.TemporaryDirectory(prefix="cria-gguf-") as place:
        path = Path(place) / "head"
        writer = GGUFWriter(path, arch)
        for key, value in table.items():
            _add(writer, key, value)
        for entry in entries:
            kind = GGMLQuantizationType(FORMATS[entry.format].number)
            writer.add_tensor_info(entry.name, entry.tensor.shape, np.dtype(np.float32), entry.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        head = path.read_bytes()
    return head + bytes(_padded(len(head)) - len(head))


def _add(writer: Any, key: str, value: Any) -> None:
    """Add one setting under the type that GGUF has for it."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
