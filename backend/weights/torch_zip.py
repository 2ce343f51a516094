"""The zip container of torch.save (.pth and .bin since torch 1.6): lazy tensors at known byte offsets, CRC-32 checked.

torch itself never compares the checksums that the container carries, so a flipped byte loads silently there; here every
byte that is read goes through them. Knows nothing about models.
"""

import struct
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from backend.errors import WeightsError
from backend.weights.checkpoint import SLAB_BYTES, Tensor
from backend.weights.checksum import ScatteredCrc
from backend.weights.disk import has_arrived, read_at, read_start, source_file
from backend.weights.dtypes import NUMPY, Array, itemsize
from backend.weights.file_kinds import START_BYTES, kind_of, kind_of_members, misplaced
from backend.weights.pickles import PICKLE_LIMIT, state_dict
from backend.weights.torch_names import StoredView

_LOCAL_HEADER = 30  # bytes before the name (PKWARE APPNOTE 4.3.7)
_UTF8 = 0x800  # the flag for names in UTF-8; without it they are in code page 437
_DIRECTORY_LIMIT = 8_000_000  # bytes of the list of members: about 100,000 of them


@dataclass
class Record:
    """One stored member of the zip. Whatever is read of it passes its CRC-32 once, in any order and from any thread."""

    path: Path
    name: str
    offset: int  # of its first byte in the file
    size: int
    crc: int
    _seen: ScatteredCrc = field(init=False, repr=False)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._seen = ScatteredCrc(self.size)

    @property
    def seen(self) -> int:
        """Number of bytes that went through the checksum."""
        return self._seen.seen

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return bytes ``start`` to ``stop`` of the record.

        Raises:
            WeightsError: the file ends early, or the record is complete and its checksum is wrong.
        """
        data = read_at(self.path, self.offset + start, stop - start)
        with self._one_at_a_time:
            self._seen.add(start, data)
            if self._seen.value not in (None, self.crc):
                raise WeightsError("weights.checksum", file=self.path.name, record=self.name)
        return data

    def finish(self) -> None:
        """Read what is missing of a record that was read in part; one that nobody touched stays unread.

        So does, for now, one of a file that is still on its way: nothing but samples was read of it.
        """
        if self.seen and has_arrived(self.path):
            for start, stop in list(self._seen.gaps(0, self.size)):
                for at in range(start, stop, SLAB_BYTES):
                    self.read(at, min(at + SLAB_BYTES, stop))


def read_torch_zip(path: Path) -> tuple[dict[str, Tensor], tuple[Record, ...]]:
    """Return the lazy tensors of one file in the order they were saved, and its records to be finished at the end.

    Raises:
        WeightsError: not a zip of torch.save, truncated, compressed, or with entries that do not fit the file.
    """
    size, start = source_file(path).bytes, read_start(path, START_BYTES)
    if not start.startswith(b"PK"):
        raise misplaced(path, kind_of(start), "weights.not_torch_zip")
    entries, root = _directory(path)
    _check_byte_order(path, entries.get(f"{root}byteorder"), size)
    pickle = entries[f"{root}data.pkl"]
    if pickle.file_size > PICKLE_LIMIT:
        raise WeightsError("weights.pickle_too_large", file=path.name, bytes=pickle.file_size, limit=PICKLE_LIMIT)
    description = _record(path, pickle, size)
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
        tensors[name] = view_tensor(path, view, records[key].read)
    _check_apart(path, [description, *records.values()])
    return tensors, tuple(records.values())


def _directory(path: Path) -> tuple[Mapping[str, zipfile.ZipInfo], str]:
    """Return the entries by name, and what the names begin with: that of the one ``data.pkl`` tells."""
    try:
        with _Sober(path) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except _TooLong as problem:
        raise WeightsError("files.too_many_parts", file=path.name) from problem
    except OSError as problem:
        raise WeightsError("weights.cannot_read", file=path.name, what=problem.strerror or str(problem)) from problem
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as problem:
        raise WeightsError("weights.zip_truncated", file=path.name) from problem
    entries = {info.filename: info for info in infos}
    if len(entries) != len(infos):
        raise WeightsError("files.part_twice", file=path.name)
    if (kind := kind_of_members(entries)) is not None:
        raise misplaced(path, kind, "weights.not_torch_zip")
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError("weights.not_torch_zip", file=path.name)
    return entries, pickles[0].removesuffix("data.pkl")


class _TooLong(Exception):
    """A file says that a list in it is longer than any model needs."""


class _Sober(FileIO):
    """A file that will not be read into memory whole because a number inside it says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path, self._end = path, path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; nothing that zipfile wants at once is long but the list of members."""
        at = self.tell()
        left = max(0, self._end - at)
        count = left if size is None or size < 0 else min(size, left)
        if max(count, size or 0) > _DIRECTORY_LIMIT:
            raise _TooLong
        data = read_at(self._path, at, count).tobytes()
        self.seek(at + len(data))
        return data


def _check_byte_order(path: Path, entry: zipfile.ZipInfo | None, file_size: int) -> None:
    """Refuse numbers of the other byte order, which torch notes since 2.1."""
    if entry is None or entry.file_size > 10:
        return
    record = _record(path, entry, file_size)
    if record.read(0, record.size).tobytes() == b"big":
        raise WeightsError("files.big_endian", file=path.name)


def _check_apart(path: Path, records: Sequence[Record]) -> None:
    """Refuse records that share bytes: one of them is not what its name says."""
    ordered = sorted(records, key=lambda record: record.offset)
    for first, second in pairwise(ordered):
        if first.offset + first.size > second.offset:
            one, other = first.name[-80:], second.name[-80:]
            raise WeightsError("files.parts_overlap", file=path.name, first=one, second=other)


def _record(path: Path, entry: zipfile.ZipInfo, file_size: int) -> Record:
    """Return where an entry's bytes really are: only its local header tells."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
        raise WeightsError("weights.zip_compressed", file=path.name, record=entry.filename[-80:])
    if not 0 <= entry.header_offset <= file_size - _LOCAL_HEADER:
        raise WeightsError("weights.zip_truncated", file=path.name)
    header = read_at(path, entry.header_offset, _LOCAL_HEADER).tobytes()
    named, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    offset = entry.header_offset + _LOCAL_HEADER + named + extra
    if not header.startswith(b"PK\x03\x04") or offset + entry.file_size > file_size:
        raise WeightsError("weights.zip_truncated", file=path.name)
    name = read_at(path, entry.header_offset + _LOCAL_HEADER, named).tobytes()
    if name != entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437"):
        raise WeightsError("files.part_differs", file=path.name, record=entry.filename[-80:])
    return Record(path, entry.filename, offset, entry.file_size, entry.CRC)


def view_tensor(path: Path, view: StoredView, read: Callable[[int, int], NDArray[np.uint8]]) -> Tensor:
    """Return the lazy tensor of a view in a file; ``read(start, stop)`` returns bytes of its storage."""
    shape = view.shape or (1,)
    stride = view.stride or (1,)
    dtype = NUMPY[view.storage.dtype]

    def no_rows(start: int, stop: int) -> Array:
        return np.empty((stop - start, *shape[1:]), dtype)

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

    some_rows = dense_rows if _is_dense(shape, stride) else strided_rows
    return Tensor(view.storage.dtype, shape, some_rows if prod(shape) else no_rows, files=frozenset([path]))


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    wanted = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != wanted:
            return False
        wanted *= size
    return True
