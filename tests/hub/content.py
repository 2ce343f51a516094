"""What the stand-in's files hold: bytes that are known in advance and, however many they are, need not be kept.

A content is sent as pieces: bytes, or a stretch of an open file, which the kernel can send by itself. Knows nothing
about HTTP or repositories.
"""

import gzip
import hashlib
import os
import random
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

_BLOCK = 1 << 20
_POOL = 32 << 20
_HALVES = (_POOL - _BLOCK) // 2
_LEFT_OUT = 1 << 30  # bytes; nothing in a test compresses more


class Stretch(NamedTuple):
    """Some bytes of an open file."""

    descriptor: int
    offset: int
    length: int


Piece = bytes | Stretch


class Content(ABC):
    """The bytes of one file."""

    size: int

    @abstractmethod
    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """Yield the bytes from ``start`` to ``stop``, in order."""

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the same as bytes, a piece at a time."""
        for piece in self.pieces(start, self.size if stop is None else stop):
            yield os.pread(piece.descriptor, piece.length, piece.offset) if isinstance(piece, Stretch) else piece

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the same at once."""
        return b"".join(self.blocks(start, stop))

    def write(self, path: Path) -> None:
        """Make a file of it."""
        with path.open("wb") as out:
            for block in self.blocks():
                out.write(block)

    @cached_property
    def sha256(self) -> str:
        """The sum that LFS names a file by."""
        return self._digest("sha256", b"")

    @cached_property
    def git_sha1(self) -> str:
        """The id that git gives a file: sha1 over ``blob SIZE``, a zero byte and the bytes."""
        return self._digest("sha1", b"blob %d\0" % self.size)

    @cached_property
    def pointer(self) -> bytes:
        """What git keeps in place of an LFS file (git-lfs specification, "The Pointer")."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        return text.encode()

    def _digest(self, name: str, before: bytes) -> str:
        digest = hashlib.new(name, before, usedforsecurity=False)
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()


class Literal(Content):
    """Bytes that are at hand."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        yield self.data[start:stop]


class OnDisk(Content):
    """A file of this machine, opened at once and read when it is sent."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size
        weakref.finalize(self, os.close, self._descriptor)

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        for at in range(start, stop, _BLOCK):
            yield Stretch(self._descriptor, at, min(_BLOCK, stop - at))


@cache
def _pool() -> int:
    """Return a file of 32 MiB of small half-precision numbers, random though always the same, none infinite."""
    data = bytearray(random.Random(4).randbytes(_POOL))
    # The high byte is sign, five bits of exponent, two of fraction: exponents become 2^-10 to 2^-6.
    small = bytes(high & 0x83 | (5 + (high >> 2 & 31) % 5) << 2 for high in range(256))
    data[1::2] = data[1::2].translate(small)
    descriptor, path = tempfile.mkstemp()
    Path(path).unlink()
    os.pwrite(descriptor, data, 0)
    return descriptor


class Generated(Content):
    """Any number of bytes, the same for the same seed, no two blocks of them alike: places in one pool of numbers."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self._seed = size, seed

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        while start < stop:
            block, inside = divmod(start, _BLOCK)
            count = min(_BLOCK - inside, stop - start)
            place = (block * 2_654_435_761 + self._seed * 97_003) % _HALVES * 2
            yield Stretch(_pool(), place + inside, count)
            start += count


class Joined(Content):
    """Several contents, one behind the other."""

    def __init__(self, *parts: Content) -> None:
        self._parts, self.size = parts, sum(part.size for part in parts)

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        for part in self._parts:
            if start < part.size and stop > 0:
                yield from part.pieces(max(start, 0), min(stop, part.size))
            start, stop = start - part.size, stop - part.size


class Flipped(Content):
    """A content with every bit of one byte turned over, or of all of them."""

    def __init__(self, true: Content, at: int | None = None) -> None:
        self._true, self._at, self.size = true, at, true.size

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        turned = bytes(255 - value for value in range(256))
        for piece in self._true.pieces(start, stop):
            count = piece.length if isinstance(piece, Stretch) else len(piece)
            if self._at is not None and not start <= self._at < start + count:
                yield piece
            else:
                data = os.pread(piece.descriptor, count, piece.offset) if isinstance(piece, Stretch) else piece
                if self._at is None:
                    yield data.translate(turned)
                else:
                    at = self._at - start
                    yield data[:at] + data[at : at + 1].translate(turned) + data[at + 1 :]
            start += count


def packed(content: Content, start: int, stop: int) -> Content:
    """Return a part of a content as gzip."""
    if stop - start > _LEFT_OUT:
        raise ValueError(stop - start)
    return Literal(gzip.compress(content.read(start, stop), 1))
