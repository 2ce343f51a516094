"""Tar archives read once, from front to end, compressed or not: every member with its size, its bytes on request.

Python's ``tarfile`` reads a header's extension into memory whatever its size, takes minutes over some of a megabyte,
and can be led backwards; this reader knows only what archives of weights have, and no number in the file makes it hold
more than a megabyte. Knows nothing about which members are wanted.

Format: POSIX.1-2017, pax interchange format (``ustar`` headers and "x" records); long names as GNU tar writes them.
"""

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

BLOCK = 512
_PIECE = 1 << 20  # bytes read at once
_EXTENSION_LIMIT = 1 << 16  # bytes; names and times take a few hundred
_XZ_MEMORY = 256_000_000  # bytes; xz -9 wants 65 MB
_STARTS = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"5": "folder", b"1": "link", b"2": "link", b"K": "link",
          b"S": "packing"}  # fmt: skip


class Damaged(Exception):
    """The stream is cut off, or not what a tar archive is."""


class TooMuch(Exception):
    """The stream goes on past the bound that was given."""


@dataclass(frozen=True)
class Member:
    """One entry: a ``file``, a ``folder``, or something nobody should take: a ``link``, a ``device``, a ``packing``."""

    name: str
    size: int
    kind: str


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Stream:
    """Decompressed bytes from the first on, counted; ``at`` is how many have passed."""

    def __init__(self, file: _Reads, limit: int, skip: Callable[[int], object] | None = None) -> None:
        self.at = 0
        self._file, self._limit, self._skip = file, limit, skip

    def read(self, size: int) -> bytes:
        """Return the next bytes: ``size`` of them, or fewer where the stream ends."""
        parts, missing = [], size
        while missing and (data := self._file.read(min(missing, _PIECE))):
            parts.append(data)
            missing -= len(data)
            self.at += len(data)
            if self.at > self._limit:
                raise TooMuch
        return b"".join(parts)

    def skip_to(self, position: int) -> None:
        """Go forward to a position; a file can jump there, a decompressor has to work its way."""
        if self._skip is not None:
            self._skip(position)
            self.at = position
        while self.at < position:
            if not self.read(min(_PIECE, position - self.at)):
                raise Damaged

    def drain(self) -> None:
        """Read to the end, so that a compressed stream checks its own checksum."""
        while self._skip is None and self.read(_PIECE):
            pass


@contextmanager
def open_tar(path: Path, limit: int) -> Iterator[Stream]:
    """Open a plain, gzip, bzip2 or xz file; more than ``limit`` bytes out of it raise ``TooMuch``."""
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        kind = next((kind for magic, kind in _STARTS.items() if start.startswith(magic)), "")
        if not kind:
            yield Stream(file, limit, file.seek)
        elif kind == "gz":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield Stream(unpacked, limit)
        elif kind == "bz2":
            yield Stream(_Unpacker(file, bz2.BZ2Decompressor), limit)
        else:
            yield Stream(_Unpacker(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)), limit)


class _Unpacker:
    """bzip2 or xz, one compressed stream after another. The library's xz file takes what memory the file asks for."""

    def __init__(self, file: BinaryIO, make: "Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]") -> None:
        self._file, self._make, self._one = file, make, make()

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; none at the end."""
        while True:
            feed = b""
            if self._one.eof:
                feed = (self._one.unused_data or self._file.read(_PIECE)).lstrip(b"\0")  # xz may pad with zeros
                if not feed:
                    return b""
                self._one = self._make()
            elif self._one.needs_input:
                feed = self._file.read(_PIECE)
                if not feed:
                    raise Damaged
            try:
                data = self._one.decompress(feed, size)
            except OSError as problem:  # bzip2's word for bad data; the disk's own errors come from the reads above
                raise Damaged from problem
            if data:
                return data


def members(stream: Stream) -> Iterator[Member]:
    """Yield every member in order. Before the next one is asked for, ``stream.read`` returns this one's bytes.

    Raises:
        Damaged: cut off, or not a tar archive.
        TooMuch: more bytes than the stream's bound.
    """
    long_name, records = "", dict[str, str]()
    while True:
        header = stream.read(BLOCK)
        if header == bytes(BLOCK):
            stream.drain()
            return
        size, kind = _checked(header)
        start = stream.at
        if kind in (b"x", b"g", b"L"):
            if size > _EXTENSION_LIMIT:
                raise Damaged
            data = stream.read(size)
            if kind == b"x":
                records = _records(data)
            elif kind == b"L":
                long_name = _text(data)
        else:
            size = _natural(records.get("size", str(size)))
            sparse = any(key.startswith("GNU.sparse") for key in records)
            name = records.get("path") or long_name or _name(header)
            yield Member(name, size, "packing" if sparse else _KINDS.get(kind, "device"))
            long_name, records = "", {}
        stream.skip_to(start + -(-size // BLOCK) * BLOCK)


def _checked(header: bytes) -> tuple[int, bytes]:
    """Return size and kind of the member that a header announces, once its checksum is right."""
    if len(header) < BLOCK:
        raise Damaged
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _number(header[148:156]):
        raise Damaged
    return _number(header[124:136]), header[156:157]


def _number(data: bytes) -> int:
    """Return a header's number: octal digits, or big-endian bits behind a set first bit (GNU, for 8 GB and more)."""
    if data[0] == 0x80:
        value = int.from_bytes(data[1:], "big")
    else:
        digits = data.strip(b" \0")
        if not all(48 <= digit < 56 for digit in digits):
            raise Damaged
        value = int(digits or b"0", 8)
    return _natural(str(value))


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Damaged
    return int(text)


def _name(header: bytes) -> str:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{_text(header[:100])}" if prefix else _text(header[:100])


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _records(data: bytes) -> dict[str, str]:
    """Return a pax header's records: ``LENGTH KEY=VALUE`` and a newline, the length counting the whole line."""
    found, at = dict[str, str](), 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        if space < 0:
            raise Damaged
        length = _natural(data[at:space].decode("latin-1"))
        key, equals, value = data[space + 1 : at + length - 1].partition(b"=")
        if not equals or at + length > len(data) or data[at + length - 1 : at + length] != b"\n":
            raise Damaged
        found[key.decode("latin-1")] = value.decode("utf-8", "backslashreplace")
        at += length
    return found
