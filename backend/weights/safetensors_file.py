"""The safetensors container: reading a header into lazy tensors, and the exact header bytes of a file to be written.

Format: eight bytes little-endian header length, a JSON header, then the numbers back to back; offsets count from the
end of the header (https://github.com/huggingface/safetensors). Stricter than the library where it lets things pass: a
name twice, a file without tensors. Knows nothing about models.
"""

import json
from collections.abc import Iterable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backend.errors import WeightsError
from backend.weights.checkpoint import Tensor
from backend.weights.disk import parse_json, read_at, read_start, source_file
from backend.weights.dtypes import NUMPY, Array, itemsize
from backend.weights.file_kinds import SAFETENSORS, START_BYTES, kind_of, misplaced

TENSOR_LIMIT = 50_000  # the 405B has 1,138
HEADER_LIMIT = 8_000_000  # bytes; about 130 a tensor
_NAME_LIMIT = 1000  # characters
_LONGEST = 1 << 32  # rows, or numbers in a row

# The library lays a file out by dtype in this order (0.8.0), then by name, bytewise.
_WRITE_ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the lazy tensors of one file, in file order.

    Raises:
        WeightsError: not such a file, truncated, or a header that does not describe the bytes exactly.
    """
    size, head = source_file(path).bytes, read_start(path, START_BYTES)
    if (kind := kind_of(head)) not in (None, SAFETENSORS):
        raise misplaced(path, kind, "weights.not_safetensors")
    if size < 10:
        raise WeightsError("weights.truncated", file=path.name, missing=10 - size)
    length = int.from_bytes(head[:8], "little")
    if length < 2 or head[8:9] not in (b"{", b" "):
        raise WeightsError("weights.not_safetensors", file=path.name)
    if length > HEADER_LIMIT:
        raise WeightsError("files.header_too_large", file=path.name, bytes=length, limit=HEADER_LIMIT)
    if 8 + length > size:
        raise WeightsError("weights.truncated", file=path.name, missing=8 + length - size)
    raw = read_at(path, 8, length).tobytes()
    if raw.count(b"{") > TENSOR_LIMIT:  # before parsing: a table of nothing for each of them takes most memory
        raise WeightsError("files.too_many_tensors", file=path.name)
    header = parse_json(raw, path.name)
    _check_metadata(header.pop("__metadata__", {}), path.name)
    if not header:
        raise WeightsError("weights.tensor_count", file=path.name, count=0)
    spans = {name: _span(entry, name, path.name) for name, entry in header.items()}
    spans = dict(sorted(spans.items(), key=lambda item: item[1][2:]))
    end = 0
    for name, (_, _, start, stop) in spans.items():
        if start != end:
            raise WeightsError("weights.offsets", file=path.name, name=name[:120], expected=end, found=start)
        end = stop
    if 8 + length + end > size:
        raise WeightsError("weights.truncated", file=path.name, missing=8 + length + end - size)
    if 8 + length + end < size:
        raise WeightsError("weights.trailing_bytes", file=path.name, bytes=size - 8 - length - end)
    return {
        name: stored_tensor(path, dtype=dtype, shape=shape, offset=8 + length + start)
        for name, (dtype, shape, start, _) in spans.items()
    }


def _check_metadata(found: Any, file: str) -> None:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise WeightsError("files.metadata_bad", file=file)


def _span(entry: Any, name: str, file: str) -> tuple[str, tuple[int, ...], int, int]:
    """Return dtype, shape, start and stop of one header entry, checked against each other."""
    bad = WeightsError("weights.header_entry", file=file, name=name[:120])
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise bad
    if len(name) > _NAME_LIMIT:
        raise WeightsError("files.name_too_long", file=file, name=name[:120], length=len(name))
    if entry["dtype"] not in NUMPY:
        raise WeightsError("files.dtype_foreign", file=file, name=name[:120], dtype=entry["dtype"][:20])
    shape, offsets = _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2 or len(shape) > 8 or max(shape, default=0) >= _LONGEST:
        raise bad
    start, stop = offsets
    if stop - start != prod(shape) * itemsize(entry["dtype"]):
        raise bad
    return entry["dtype"], shape, start, stop


def _naturals(value: Any) -> tuple[int, ...] | None:
    """Return a list of sizes or offsets, or None if it is anything else."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 1 << 62 for item in value):
        return None
    return tuple(value)


def stored_tensor(path: Path, *, dtype: str, shape: tuple[int, ...], offset: int) -> Tensor:
    """Return the lazy tensor whose numbers lie back to back from byte ``offset`` of a file on."""
    rows = partial(_rows, path, dtype=dtype, row_shape=shape[1:], offset=offset)
    return Tensor(dtype, shape or (1,), rows, files=frozenset([path]))


def _rows(path: Path, start: int, stop: int, *, dtype: str, row_shape: tuple[int, ...], offset: int) -> Array:
    row = prod(row_shape) * itemsize(dtype)
    data = read_at(path, offset + start * row, (stop - start) * row)
    return data.view(NUMPY[dtype]).reshape(stop - start, *row_shape)


def file_order(tensors: Mapping[str, Tensor], turns: Mapping[str, int] = MappingProxyType({})) -> list[str]:
    """Return the names in the order in which the library lays tensors out in a file: wide numbers first, then by name.

    Among numbers of one width, those with the lowest ``turns`` come first; any order is allowed.
    """
    return sorted(
        tensors, key=lambda name: (_WRITE_ORDER.index(tensors[name].dtype), turns.get(name, 0), name.encode())
    )


def header_bytes(tensors: Iterable[tuple[str, Tensor]]) -> bytes:
    """Return length and header for tensors laid out in this order, byte for byte as the library writes them."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors:
        start, end = end, end + tensor.nbytes
        table[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
