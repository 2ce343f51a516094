"""Which files may be fetched now so that, while used ones go, the disk never holds more than it has to.

Files are let in in one order over all sources. The next one is let in if everything that is here or coming, and all
that can be made of it, fits into the budget; or, whatever it takes, once nothing else can go on. Knows nothing about
networks, or how anything is made.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from backend.arrival import Output, Room, last_uses


class Gate:
    """``order`` are the files that are let in one by one, with their ``sizes``; all others always are.

    ``here`` are those that have come, ``begun`` those of which something has. May be asked from any thread.
    """

    def __init__(
        self, order: Sequence[Path], sizes: Mapping[Path, int], *, here: Iterable[Path], begun: Iterable[Path]
    ) -> None:
        self._order, self._sizes = tuple(order), dict(sizes)
        self._came = set(here) & set(sizes)
        self._in = self._came | (set(begun) & set(sizes))
        self._gone = set[Path]()
        self._outputs: Sequence[Output[Path]] | None = None
        self._made, self._budget = 0, 0
        self._lock = threading.Lock()

    def may_begin(self, path: Path) -> bool:
        """Tell whether a file may be fetched now."""
        with self._lock:
            if path not in self._sizes or path in self._in:
                return True
            following = next(one for one in self._order if one not in self._in)
            if path != following or not (self._fits(path) or self._stands_still()):
                return False
            self._in.add(path)
            return True

    def _fits(self, path: Path) -> bool:
        if self._outputs is None:
            return False
        here = self._in | {path}
        makes = sum(output.size for output in self._outputs if self._is_there(output.begins, here))
        return makes + sum(self._sizes[one] for one in here - self._gone) <= self._budget

    def _stands_still(self) -> bool:
        if not self._in <= self._came:
            return False
        following = self._outputs[self._made : self._made + 1] if self._outputs is not None else ()
        return not any(self._is_there(output.needs, self._came) for output in following)

    def _is_there(self, needs: Iterable[Path], here: set[Path]) -> bool:
        return all(path in here or path not in self._sizes for path in needs)

    def foresee(self, outputs: Sequence[Output[Path]], promised: int) -> int:
        """Take note of what will be made; return the most bytes that will ever be there, ``promised`` or more."""
        with self._lock:
            sizes = {path: size for path, size in self._sizes.items() if path not in self._gone}
            most = Room(sizes, outputs).peak([path for path in self._order if path in sizes])
            self._outputs, self._made, self._budget = outputs, 0, max(most, promised)
            return self._budget

    def came(self, path: Path) -> None:
        """Take note that all of a file is here."""
        with self._lock:
            if path in self._sizes:
                self._came.add(path)
                self._in.add(path)

    def made(self) -> set[Path]:
        """Take note that the next output is made; return the files that no later one needs."""
        with self._lock:
            self._made += 1
            outputs = self._outputs or ()
            last = last_uses(outputs)
            return {path for path, number in last.items() if number < self._made and path in self._sizes} - self._gone

    def removed(self, path: Path) -> None:
        """Take note that a file is not here any more and will not come."""
        with self._lock:
            for places in (self._came, self._in, self._gone):
                places.add(path)

    @property
    def order(self) -> tuple[Path, ...]:
        """The files that are let in one by one."""
        return self._order
