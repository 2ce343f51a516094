"""How fast bytes may come and how slowly they must not: a limit for all connections, a minimum for each one.

Knows nothing about networks; time comes from the caller's clock.
"""

import threading
import time
from collections.abc import Callable

_BURST_S = 0.25
Clock = Callable[[], float]


class Bucket:
    """A limit of ``rate`` bytes a second over all who take from it; None is no limit."""

    def __init__(self, rate: float | None, clock: Clock = time.monotonic) -> None:
        self._rate, self._clock, self._lock = rate, clock, threading.Lock()
        self._free_at = clock()

    @property
    def portion(self) -> int:
        """How many bytes to take at once: few under a tight limit, so that many connections get their turn."""
        return 1 << 18 if self._rate is None else max(1 << 12, min(1 << 18, int(self._rate / 32)))

    def take(self, count: int) -> float:
        """Take bytes that have come already; return how many seconds to wait before the next ones."""
        if self._rate is None:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - _BURST_S) + count / self._rate
            return max(0.0, self._free_at - now)


class Watch:
    """Tells when a connection has been slower than ``floor`` bytes a second for ``window_s`` seconds of waiting for it.

    Only time spent in ``waited`` counts, so that a limit of our own is not held against the server.
    """

    def __init__(self, *, floor: float, window_s: float) -> None:
        self._floor, self._window_s = floor, window_s
        self._seconds, self._bytes = 0.0, 0

    def waited(self, seconds: float, count: int) -> bool:
        """Note that ``count`` bytes took so long; return whether the connection is too slow to keep."""
        self._seconds, self._bytes = self._seconds + seconds, self._bytes + count
        if self._seconds < self._window_s:
            return False
        slow = self._bytes < self._floor * self._seconds
        self._seconds, self._bytes = 0.0, 0
        return slow
