"""Who fetches what: ranges of unfinished files, claimed by threads, and what is known about the servers meanwhile.

Shared by all threads of one fetch. Knows nothing about requests, sums or the disk.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from backend.errors import CriaError
from backend.sources.chain import MARK
from backend.sources.extents import Extents, Span
from backend.sources.pace import Clock
from backend.sources.part import Part
from backend.sources.places import Place, Places
from backend.sources.source import WEIGHT_ENDINGS
from backend.sources.trouble import Trouble
from backend.text import Message

_SMALL = 1 << 20  # bytes; files up to that come first, since what is wrong with a model is mostly in them
_LEAST, _MOST = 4 << 20, 64 << 20  # bytes of one request
_SLOW_S = 10.0  # a range that would take longer is shared with an idle thread
_SETTLED_S = 3.0  # what a range is judged by
_IDLE_S = 0.05
_IGNORED = 2  # ranges in a row that a server may not give before it is asked for whole files


@dataclass(eq=False)
class Claim:
    """A range that one thread fetches. ``stop`` may come nearer while it does: somebody idle took the rest.

    ``whole``: the server gives files from their beginning only.
    """

    part: Part
    place: Place
    start: int
    stop: int
    began: float
    whole: bool = False
    position: int = 0

    @property
    def key(self) -> tuple[str, Place]:
        """The file at the server."""
        return self.part.file.name, self.place


class Board:
    """The claims of one fetch, ``per_file`` ranges of one file at once. ``may_begin`` is asked about files by name."""

    def __init__(
        self,
        parts: Sequence[Part],
        places: Places,
        *,
        per_file: int,
        may_begin: Callable[[str], bool] = lambda _: True,
        clock: Clock = time.monotonic,
    ) -> None:
        self.parts, self._may_begin = sorted(parts, key=_turn), may_begin
        self.places, self._per_file, self._clock = places, per_file, clock
        self._lock, self._claims = threading.Condition(), list[Claim]()
        self._retired: set[Part] = set()
        self._ignored: dict[tuple[str, Place], int] = {}
        self._given: dict[tuple[str, Place], int] = {}
        self._broken: dict[str, list[int]] = {}
        self._in_use: Place | None = None
        self.etags: dict[tuple[str, Place], str] = {}  # what a range is asked for on condition of
        self.locations: dict[tuple[str, Place], str] = {}  # where a server sent us for a file
        self.stopped, self.logs, self.last_byte = threading.Event(), deque[Message](), clock()
        self.error: CriaError | None = None

    def claim(self) -> Claim | None:
        """Return a range to fetch, None if there is nothing to do for the moment.

        Raises:
            CriaError: no server gives a file that is needed.
        """
        with self._lock:
            made = next(self._offers(), None) or self._share()
            if made is not None:
                self._claims.append(made)
                if made.place is not self._in_use and not made.part.comparing:
                    self._announce(made.place)
            return made

    def _offers(self) -> Iterator[Claim]:
        for part in self.parts:
            mine = [claim for claim in self._claims if claim.part is part]
            if part in self._retired or len(mine) >= self._per_file:
                continue
            free = self._free(part, mine)
            if not free or not self._may_begin(part.file.name):
                continue
            picked = self.places.pick(part.file.name, self._giver(part) if part.comparing else None)
            if picked is None:
                raise self.places.problem(part.file.name)
            place, wait = picked
            if wait:
                continue
            if self._ignored.get((part.file.name, place), 0) < _IGNORED:
                yield self._range(part, place, free)
            elif not mine:
                yield Claim(part, place, 0, part.size, self._clock(), whole=True)

    def _free(self, part: Part, mine: Sequence[Claim]) -> list[Span]:
        taken = Extents((claim.start, claim.stop) for claim in mine)
        return [free for gap in part.gaps() for free in taken.gaps(*gap)]

    def _range(self, part: Part, place: Place, free: list[Span]) -> Claim:
        """Take the next range: large ones, so that requests are few, though not all that is left of a file."""
        if part.comparing:
            start, stop = self._suspect(part, free)
        else:
            start, stop = free[0]
            share = sum(b - a for a, b in free) // self._per_file
            stop = min(stop, start + max(_LEAST, min(_MOST, share)))
        return Claim(part, place, start, stop, self._clock(), position=start)

    def _suspect(self, part: Part, free: list[Span]) -> Span:
        """Return what to compare next: first where a connection broke, for that is where bytes go astray."""
        todo = Extents(free)
        for offset in self._broken.get(part.file.name, ()):
            near = next(todo.within(max(0, offset - _SMALL), offset + _SMALL), None)
            if near is not None:
                return near
        return free[0][0], min(free[0][1], (free[0][0] // MARK + 1) * MARK)

    def _giver(self, part: Part) -> Place | None:
        """Return who gave most of a file: a second copy is better taken from somebody else."""
        name = part.file.name
        return max(self.places.all, key=lambda place: self._given.get((name, place), 0))

    def _share(self) -> Claim | None:
        """Give an idle thread the second half of the range that will take longest, if that is long."""
        now = self._clock()

        def seconds_left(claim: Claim) -> float:
            moved = claim.position - claim.start
            spent = now - claim.began
            return (claim.stop - claim.position) * spent / max(moved, 1) if spent > _SETTLED_S else 0.0

        slow = [claim for claim in self._claims if not claim.whole and claim.stop - claim.position > 2 * _SMALL]
        slowest = max(slow, key=seconds_left, default=None)
        if slowest is None or seconds_left(slowest) < _SLOW_S or slowest.part in self._retired:
            return None
        picked = self.places.pick(slowest.part.file.name)
        if picked is None or picked[1]:
            return None
        middle, stop = (slowest.position + slowest.stop) // 2, slowest.stop
        slowest.stop = middle
        return Claim(slowest.part, picked[0], middle, stop, now, position=middle)

    def _announce(self, place: Place) -> None:
        key, before = ("download.switched", self._in_use) if self._in_use else ("download.using", None)
        error = self.places.last_error
        self.logs.append(Message(key, {"host": place.listing.host, "before": before.listing.host if before else None}))
        if before and error:
            self.logs.append(error.message)
        self._in_use = place

    def release(self, claim: Claim) -> None:
        """Let go of a range, whether or not it is done."""
        with self._lock:
            self._claims.remove(claim)
            if not claim.part.comparing:
                self._given[claim.key] = self._given.get(claim.key, 0) + max(0, claim.position - claim.start)
            self._lock.notify_all()

    def troubled(self, claim: Claim, trouble: Trouble) -> None:
        """Note that fetching a range failed."""
        with self._lock:
            self.places.failed(claim.place, claim.part.file.name, trouble)
            self._broken.setdefault(claim.part.file.name, []).append(claim.position)

    def worked(self, claim: Claim) -> None:
        """Note that a server gave a good deal of what it was asked for."""
        with self._lock:
            self.places.worked(claim.place)
            if not claim.whole:
                self._ignored.pop(claim.key, None)

    def ignored_range(self, claim: Claim) -> None:
        """Note that a server did not give the range that was asked for, but the whole file or nothing."""
        with self._lock:
            self.etags.pop(claim.key, None)
            self._ignored[claim.key] = self._ignored.get(claim.key, 0) + 1

    def is_retired(self, part: Part) -> bool:
        """Tell whether nothing more of a file is wanted."""
        return part in self._retired

    def retire(self, part: Part) -> bool:
        """Claim no more of a file; return whether nobody fetches any of it any more."""
        with self._lock:
            self._retired.add(part)
            return all(claim.part is not part for claim in self._claims)

    def fail(self, error: CriaError) -> None:
        """End the fetch with an error; the first one counts."""
        with self._lock:
            self.error = self.error or error
        self.stop()

    def stop(self) -> None:
        """Let all threads end."""
        self.stopped.set()
        self.wake()

    def wait(self) -> None:
        """Wait a little, or until something changed."""
        with self._lock:
            if not self.stopped.is_set():
                self._lock.wait(_IDLE_S)

    def wake(self) -> None:
        """Let those who wait look again."""
        with self._lock:
            self._lock.notify_all()

    @property
    def is_wanting(self) -> bool:
        """Whether there is something that could be fetched now."""
        return any(part.gaps() and self._may_begin(part.file.name) for part in self.parts if part not in self._retired)

    @property
    def left(self) -> int:
        """Bytes that are not there yet."""
        return sum(part.size - part.done for part in self.parts)

    def active(self) -> list[Claim]:
        """Return what is being fetched now."""
        with self._lock:
            return list(self._claims)


def _turn(part: Part) -> tuple[bool, bool, str]:
    """Sort files into the order they are fetched in: small ones, then large ones that are no weights (tokenizers)."""
    return part.size > _SMALL, part.file.name.endswith(WEIGHT_ENDINGS), part.file.name
