"""Writes the zip container of torch.save from start to end in one pass, without torch: every offset and the size of the
file are known before the first byte.

``torch.load`` opens the result with ``weights_only=True`` and ``mmap=True``: tensor data are stored plainly and begin
at multiples of 64 bytes. Knows nothing about models or disks.

Sources: PKWARE's APPNOTE (zip), PyTorch's ``caffe2/serialize/inline_container.cc`` (records, alignment) and
``torch/serialization.py`` (what the pickle says).
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from backend.weights.dtypes import itemsize

_ALIGNMENT = 64
_FLAGS = 0x0808  # checksum behind the data, name in UTF-8
_DATE = 0x0021  # 1 January 1980: the same weights give the same bytes
_LARGE = 0xFFFF_FFFF  # this and more needs the 64-bit fields
_VERSION, _VERSION64 = 20, 45
_LOCAL, _DESCRIPTOR, _CENTRAL = b"PK\x03\x04", b"PK\x07\x08", b"PK\x01\x02"
_STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage"}


@dataclass(frozen=True)
class Entry:
    """A tensor of the file: F32, F16 or BF16, dense, with storage of its own."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return prod(self.shape) * itemsize(self.dtype)


@dataclass(frozen=True)
class _Member:
    """A member of the zip: ``header`` is what stands before its data, ``at`` where that begins in the file."""

    name: bytes
    size: int
    at: int
    header: bytes

    @property
    def is_large(self) -> bool:
        return self.size >= _LARGE

    @property
    def end(self) -> int:
        return self.at + len(self.header) + self.size + (24 if self.is_large else 16)

    def descriptor(self, crc: int) -> bytes:
        """Return what stands behind the data: checksum and sizes."""
        return _DESCRIPTOR + struct.pack("<IQQ" if self.is_large else "<III", crc, self.size, self.size)

    def central(self, crc: int) -> bytes:
        """Return its entry in the directory."""
        wide = [self.size, self.size] if self.is_large else []
        wide += [self.at] if self.at >= _LARGE else []
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        size, version = min(self.size, _LARGE), _VERSION64 if wide else _VERSION
        fields = (version, version, _FLAGS, 0, 0, _DATE, crc, size, size, len(self.name), len(extra), 0, 0, 0, 0)
        return _CENTRAL + struct.pack("<6H3I5HII", *fields, min(self.at, _LARGE)) + self.name + extra


class TorchZip:
    """One file of tensors, planned. ``stem`` names the folder inside the zip: torch.save takes the file's own name."""

    def __init__(self, stem: str, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self.description = _pickle(self.entries)
        sizes = [("data.pkl", len(self.description)), ("byteorder", 6)]
        sizes += [(f"data/{key}", entry.nbytes) for key, entry in enumerate(self.entries)]
        members: list[_Member] = []
        for name, size in (*sizes, ("version", 2)):
            at = members[-1].end if members else 0
            path = f"{stem}/{name}".encode()
            members.append(_Member(path, size, at, _local_header(path, size, at)))
        self.members = tuple(members)

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.members[-1].end + len(self.directory([0] * len(self.members)))

    def directory(self, crcs: Sequence[int]) -> bytes:
        """Return the end of the file: one entry for every member, and where they begin."""
        start, count = self.members[-1].end, len(self.members)
        entries = b"".join(member.central(crc) for member, crc in zip(self.members, crcs, strict=True))
        end64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, _VERSION64, _VERSION64, 0, 0, count, count,
                            len(entries), start)  # fmt: skip
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start + len(entries), 1)
        few = min(count, 0xFFFF)
        end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, few, few, len(entries), min(start, _LARGE), 0)
        return entries + end64 + locator + end


def _local_header(name: bytes, size: int, at: int) -> bytes:
    """Return what stands before a member's data, padded so that the data begin at a multiple of 64 bytes."""
    large = size >= _LARGE
    wide = struct.pack("<HHQQ", 1, 16, 0, 0) if large else b""
    gap = -(at + 30 + len(name) + len(wide) + 4) % _ALIGNMENT
    padding = struct.pack("<2sH", b"FB", gap) + b"\0" * gap
    stated = _LARGE if large else 0  # the descriptor behind the data has the sizes
    fields = (_VERSION64 if large else _VERSION, _FLAGS, 0, 0, _DATE, 0, stated, stated, len(name))
    return _LOCAL + struct.pack("<5H3IHH", *fields, len(wide) + len(padding)) + name + wide + padding


class TorchZipWriter:
    """Puts the tensors' bytes into the file of a plan, strictly one after the other."""

    def __init__(self, plan: TorchZip, write: Callable[[bytes | memoryview], object]) -> None:
        self._plan = plan
        self._write = write
        self._crcs: list[int] = []  # of the members that are complete
        self._crc = self._done = 0  # of the one that is being written: checksum, bytes
        self.append(plan.description)
        self.append(b"little")

    def append(self, data: bytes | memoryview) -> None:
        """Write the next bytes of the tensors; no call may reach from one tensor into the next."""
        member = self._plan.members[len(self._crcs)]
        if not self._done:
            self._write(member.header)
        self._write(data)
        self._crc = zlib.crc32(data, self._crc)
        self._done += len(data)
        if self._done == member.size:
            self._write(member.descriptor(self._crc))
            self._crcs.append(self._crc)
            self._crc = self._done = 0

    def close(self) -> None:
        """Write what stands behind the last tensor."""
        self.append(b"3\n")
        self._write(self._plan.directory(self._crcs))


def _pickle(entries: Sequence[Entry]) -> bytes:
    """Return what torch.save pickles of a dictionary of tensors, in protocol 2."""
    return b"\x80\x02}(" + b"".join(_item(key, entry) for key, entry in enumerate(entries)) + b"u."


def _item(key: int, entry: Entry) -> bytes:
    """Return a name and a tensor: _rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, no hooks)."""
    kind = f"ctorch\n{_STORAGES[entry.dtype]}\n".encode()
    storage = b"(" + _text("storage") + kind + _text(str(key)) + _text("cpu") + _integer(prod(entry.shape)) + b"tQ"
    strides = [prod(entry.shape[axis + 1 :]) for axis in range(len(entry.shape))]
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = storage + _integer(0) + _tuple(entry.shape) + _tuple(strides) + b"\x89" + hooks
    return _text(entry.name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
