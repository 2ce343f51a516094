"""The zip container of torch.save (.pth and .bin since torch 1.6): lazy tensors at known byte offsets, CRC-32 checked.

torch itself never compares the checksums that the container carries, so a flipped byte loads silently there; here every
byte that is read goes through them. Knows nothing about models.
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from backend.errors import WeightsError
from backend.weights.checkpoint import SLAB_BYTES, Tensor
from backend.weights.disk import read_at, source_file
from backend.weights.dtypes import NUMPY, Array, itemsize
from backend.weights.pickles import StoredView, state_dict

_LOCAL_HEADER = 30  # bytes before the name (PKWARE APPNOTE 4.3.7)
_ENTRY_LIMIT = 1_000_000


@dataclass
class Record:
    """One stored member of the zip. Whatever is read passes its CRC-32 once, in order; gaps are read for that alone."""

    path: Path
    name: str
    offset: int  # of its first byte in the file
    size: int
    crc: int
    seen: int = field(default=0, init=False)  # bytes from its start that went through the checksum
    running: int = field(default=0, init=False)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return bytes ``start`` to ``stop`` of the record.

        Raises:
            WeightsError: the file ends early, or the record is complete and its checksum is wrong.
        """
        data = read_at(self.path, self.offset + start, stop - start)
        if start > self.seen:
            self._catch_up(start)
        if stop > self.seen:
            self._pass(data[self.seen - start :])
        return data

    def finish(self) -> None:
        """Check a record that was read in part; one that nobody touched stays unread."""
        if 0 < self.seen < self.size:
            self._catch_up(self.size)

    def _catch_up(self, stop: int) -> None:
        while self.seen < stop:
            self._pass(read_at(self.path, self.offset + self.seen, min(SLAB_BYTES, stop - self.seen)))

    def _pass(self, data: NDArray[np.uint8]) -> None:
        self.running = zlib.crc32(data.data, self.running)
        self.seen += len(data)
        if self.seen == self.size and self.running != self.crc:
            raise WeightsError("weights.checksum", file=self.path.name, record=self.name)


def read_torch_zip(path: Path) -> tuple[dict[str, Tensor], tuple[Record, ...]]:
    """Return the lazy tensors of one file in the order they were saved, and its records to be finished at the end.

    Raises:
        WeightsError: not a zip of torch.save, truncated, compressed, or with entries that do not fit the file.
    """
    size = source_file(path).bytes
    with path.open("rb") as file:
        start = file.read(4)
    if not start.startswith(b"PK"):
        raise WeightsError("weights.not_torch_zip", file=path.name)
    entries, pickle = _directory(path)
    root = pickle.removesuffix("data.pkl")
    if not 0 < entries[pickle].file_size < 1 << 26:
        raise WeightsError("weights.pickle_too_large", file=path.name, bytes=entries[pickle].file_size, limit=1 << 26)
    description = _record(path, entries[pickle], size)
    views = state_dict(description.read(0, description.size).tobytes(), path.name)
    records: dict[str, Record] = {}
    tensors: dict[str, Tensor] = {}
    for name, view in views.items():
        key = view.storage.key
        if key not in records:
            entry = entries.get(f"{root}data/{key}")
            if entry is None:
                raise WeightsError("weights.record_missing", file=path.name, record=key, name=name[:120])
            records[key] = _record(path, entry, size)
        if records[key].size != view.storage.count * itemsize(view.storage.dtype):
            raise WeightsError("weights.record_size", file=path.name, record=key, bytes=records[key].size)
        tensors[name] = view_tensor(view, records[key].read)
    return tensors, tuple(records.values())


def _directory(path: Path) -> tuple[Mapping[str, zipfile.ZipInfo], str]:
    """Return the entries by name, and the name of the one ``data.pkl``."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as problem:
        raise WeightsError("weights.zip_truncated", file=path.name) from problem
    entries = {info.filename: info for info in infos}
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(entries) != len(infos) or len(infos) > _ENTRY_LIMIT or len(pickles) != 1:
        raise WeightsError("weights.not_torch_zip", file=path.name)
    return entries, pickles[0]


def _record(path: Path, entry: zipfile.ZipInfo, file_size: int) -> Record:
    """Return where an entry's bytes really are: only its local header tells."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
        raise WeightsError("weights.zip_compressed", file=path.name, record=entry.filename[-80:])
    if not 0 <= entry.header_offset <= file_size - _LOCAL_HEADER:
        raise WeightsError("weights.zip_truncated", file=path.name)
    header = read_at(path, entry.header_offset, _LOCAL_HEADER).tobytes()
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    offset = entry.header_offset + _LOCAL_HEADER + names
    if not header.startswith(b"PK\x03\x04") or offset + entry.file_size > file_size:
        raise WeightsError("weights.zip_truncated", file=path.name)
    return Record(path, entry.filename, offset, entry.file_size, entry.CRC)


def view_tensor(view: StoredView, read: Callable[[int, int], NDArray[np.uint8]]) -> Tensor:
    """Return the lazy tensor of a view; ``read(start, stop)`` returns bytes of its storage."""
    shape = view.shape or (1,)
    stride = view.stride or (1,)
    dtype = NUMPY[view.storage.dtype]

    def dense_rows(start: int, stop: int) -> Array:
        row = prod(shape[1:])
        first = (view.offset + start * row) * dtype.itemsize
        data = read(first, first + (stop - start) * row * dtype.itemsize)
        return data.view(dtype).reshape(stop - start, *shape[1:])

    def strided_rows(start: int, stop: int) -> Array:
        first = view.offset + start * stride[0]
        sizes = (stop - start, *shape[1:])
        span = 1 + sum((size - 1) * step for size, step in zip(sizes, stride, strict=True))
        data = read(first * dtype.itemsize, (first + span) * dtype.itemsize).view(dtype)
        return as_strided(data, sizes, tuple(step * dtype.itemsize for step in stride)).copy()

    return Tensor(view.storage.dtype, shape, dense_rows if _is_dense(shape, stride) else strided_rows)


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    wanted = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != wanted:
            return False
        wanted *= size
    return True
