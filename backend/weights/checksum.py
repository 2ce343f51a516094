"""The CRC-32 of bytes that arrive in pieces and in any order, each byte counted once.

So a file is checked while it is read for something else, by several threads and in whatever order its tensors are
wanted, and no byte is read twice for its checksum. Knows nothing about files.

Neighbouring pieces become one as in zlib's crc32_combine: n zero bytes after a message multiply its checksum by x^(8n)
modulo the polynomial of CRC-32, whose coefficients are kept with that of x^0 in bit 31.
"""

import zlib
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0xEDB88320  # without x^32
_ONE = 1 << 31


class _Piece(NamedTuple):
    start: int
    stop: int
    crc: int


class ScatteredCrc:
    """The checksum of ``size`` bytes, any of which may be handed over at any time. Not for two threads at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pieces: list[_Piece] = []  # in order, none touching the next

    @property
    def seen(self) -> int:
        """Number of bytes that were handed over."""
        return sum(piece.stop - piece.start for piece in self._pieces)

    @property
    def value(self) -> int | None:
        """The checksum, or None while bytes are missing."""
        whole = len(self._pieces) == 1 and self._pieces[0][:2] == (0, self._size)
        return self._pieces[0].crc if whole else None

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a stretch that were not handed over yet."""
        for index in range(max(0, self._index(start) - 1), len(self._pieces)):
            piece = self._pieces[index]
            if piece.start >= stop:
                break
            if start < piece.start:
                yield start, piece.start
            start = max(start, piece.stop)
        if start < stop:
            yield start, stop

    def add(self, start: int, data: NDArray[np.uint8]) -> None:
        """Hand over the bytes from ``start`` on; those that were seen before are left out."""
        for first, last in list(self.gaps(start, start + len(data))):
            self._insert(_Piece(first, last, zlib.crc32(data[first - start : last - start].data)))

    def _insert(self, piece: _Piece) -> None:
        index = self._index(piece.start)
        near = slice(max(0, index - 1), index + 1)
        before = [left for left in self._pieces[near] if left.stop == piece.start]
        after = [right for right in self._pieces[near] if right.start == piece.stop]
        for other in before:
            piece = _joined(other, piece)
        for other in after:
            piece = _joined(piece, other)
        at = index - len(before)
        self._pieces[at : index + len(after)] = [piece]

    def _index(self, start: int) -> int:
        """Return the number of pieces that begin at or before a byte."""
        return bisect_right(self._pieces, start, key=lambda piece: piece.start)


def _joined(left: _Piece, right: _Piece) -> _Piece:
    crc = _times(_x_to_the(8 * (right.stop - right.start)), left.crc) ^ right.crc
    return _Piece(left.start, right.stop, crc)


def _times(left: int, right: int) -> int:
    """Return the product of two polynomials over GF(2), modulo the one of CRC-32."""
    product = 0
    for bit in range(31, -1, -1):
        if left >> bit & 1:
            product ^= right
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)  # times x
    return product


@lru_cache(maxsize=64)
def _x_to_the(power: int) -> int:
    """Return x^power: the squares of x, of x^2, of x^4 and so on, multiplied where the power has its bits."""
    found, square = _ONE, _ONE >> 1
    while power:
        if power & 1:
            found = _times(square, found)
        square = _times(square, square)
        power >>= 1
    return found
