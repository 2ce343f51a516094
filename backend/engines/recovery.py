"""How often and how soon a crashed engine is started again, and what is said of it. Knows nothing about processes."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backend.engines.base import EngineOptions, EngineStatus
from backend.errors import CriaError, UsageError, WeightsError

DELAYS_S = (1.0, 5.0, 20.0)  # before the first, second and third restart; there is no fourth
WINDOW_S = 600.0  # restarts longer ago than this are forgiven


@dataclass(frozen=True)
class Restarts:
    """What a load has gone through: how many restarts, the last one's time (since the epoch) and reason."""

    count: int = 0
    at: float = 0.0
    after: CriaError | None = None
    offer: EngineOptions | None = None

    def on(self, status: EngineStatus) -> EngineStatus:
        """Return a status that tells of them."""
        told = replace(status, restarts=self.count, restarted_at=self.at, restarted_after=self.after, offer=self.offer)
        return replace(told, returning=status.returning or self.count > 0)


class Recovery:
    """Counts the crashes of one load. ``clock`` counts seconds."""

    def __init__(
        self,
        delays_s: Sequence[float] = DELAYS_S,
        *,
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delays_s, self._window_s, self._clock = tuple(delays_s), window_s, clock
        self._tries: deque[float] = deque()
        self.restarts = Restarts()

    def delay(self, error: CriaError, offer: EngineOptions | None) -> float | None:
        """Note a crash now; return the seconds to wait before the restart, or None when there should be none.

        None: it crashed too often, or what is wrong will be wrong again (a folder that is gone, options).
        """
        now = self._clock()
        while self._tries and now - self._tries[0] > self._window_s:
            self._tries.popleft()
        if len(self._tries) >= len(self._delays_s) or isinstance(error, UsageError | WeightsError):
            return None
        self._tries.append(now)
        self.restarts = Restarts(self.restarts.count + 1, time.time(), error, offer or self.restarts.offer)
        return self._delays_s[len(self._tries) - 1]
