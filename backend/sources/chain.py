"""The sum over a file that is not complete yet: it follows the bytes from the start, and can go back to a mark.

At every mark the sum so far is kept. The sum of a file that was changed in one place is found by going back to the mark
before it, and of a file that was damaged between two runs the first mark that differs says where. Knows nothing about
files.
"""

import hashlib
from bisect import bisect_right
from typing import Protocol

MARK = 16 << 20  # bytes between marks: what one bad byte costs


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def copy(self) -> "_Hash": ...
    def hexdigest(self) -> str: ...


class Chain:
    """A running sum: sha256, or git's sha1 over ``blob SIZE``, a zero byte and the bytes."""

    def __init__(self, size: int, *, git: bool, mark: int = MARK) -> None:
        start = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if git else hashlib.sha256()
        self.size, self.position, self._mark = size, 0, mark
        self._state: _Hash = start
        self._marks: list[tuple[int, _Hash]] = [(0, start.copy())]

    @property
    def next_mark(self) -> int:
        """Where the next mark is: ``update`` never goes past it."""
        return min((self.position // self._mark + 1) * self._mark, self.size)

    @property
    def last_mark(self) -> int:
        """Where the last mark was."""
        return self._marks[-1][0]

    def update(self, data: memoryview) -> str | None:
        """Add the bytes that follow; return the sum so far when that reaches a mark."""
        mark = self.next_mark
        self._state.update(data)
        self.position += len(data)
        if self.position < mark:
            return None
        self._marks.append((self.position, self._state.copy()))
        return self._state.hexdigest()

    def rewind(self, offset: int) -> None:
        """Go back to the last mark at or before ``offset``, if the sum is beyond it."""
        if offset >= self.position:
            return
        del self._marks[bisect_right(self._marks, offset, key=lambda mark: mark[0]) :]
        self.position, state = self._marks[-1]
        self._state = state.copy()

    def digest(self) -> str:
        """Return the sum over everything so far."""
        return self._state.hexdigest()
