"""Slows down guessing: five wrong tries are free, then each one costs 2, 4, 8 ... up to 60 seconds of silence.

Knows nothing about what is guessed.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE_TRIES = 5
LONGEST_S = 60.0
FORGET_S = 3600.0
MAX_CLIENTS = 10_000


@dataclass
class _Record:
    wrong: int
    until: float  # clock time before which nothing is evaluated
    last: float


class Throttle:
    """Counts wrong tries per client in a bounded table. Used from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clients: OrderedDict[str, _Record] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """Return how many seconds this client must still be quiet; 0 when it may try."""
        record = self._clients.get(client)
        return max(0.0, record.until - self._clock()) if record else 0.0

    def wrong(self, client: str) -> None:
        """Note a wrong try."""
        now = self._clock()
        record = self._clients.pop(client, None)
        if record is None or now - record.last > FORGET_S:
            record = _Record(0, now, now)
        record.wrong += 1
        over = record.wrong - FREE_TRIES + 1
        record.until = now + (min(2.0**over, LONGEST_S) if over > 0 else 0.0)
        record.last = now
        self._clients[client] = record
        while len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)

    def right(self, client: str) -> None:
        """Forget a client that knew the answer."""
        self._clients.pop(client, None)
