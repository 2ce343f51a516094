"""Whose turn it is to say how the engine is, and what was said last: one status that everybody sees.

Loads, unloads and falling asleep each begin a turn; whoever's turn is over changes nothing any more. Knows nothing
about processes.
"""

import dataclasses
import threading
import time
from collections.abc import Callable

from backend.engines.base import EngineStatus


class Turns:
    """The status and the turn it belongs to. Thread-safe; nothing here waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = 0
        self._status = EngineStatus()
        self._since = time.monotonic()

    def status(self) -> EngineStatus:
        """Return the status, and how long its state has lasted."""
        return self.now()[1]

    def now(self) -> tuple[int, EngineStatus]:
        """Return whose turn it is, and the status."""
        with self._lock:
            return self._turn, dataclasses.replace(self._status, seconds=time.monotonic() - self._since)

    def begin(
        self, status: EngineStatus, *, after: int | None = None, provided: Callable[[], bool] = lambda: True
    ) -> int | None:
        """Begin a turn with a status; return its number.

        None, and nothing changes, when it should come right ``after`` a turn that is over, or when it is not
        ``provided`` (asked while no other turn can begin).
        """
        with self._lock:
            if after not in (None, self._turn) or not provided():
                return None
            self._turn += 1
            self._status, self._since = status, time.monotonic()
            return self._turn

    def set(self, turn: int, status: EngineStatus) -> None:
        """Show a status if it is still that turn."""
        with self._lock:
            if turn != self._turn:
                return
            if status.state is not self._status.state:
                self._since = time.monotonic()
            self._status = status

    def is_on(self, turn: int) -> bool:
        """Tell whether it is still that turn."""
        with self._lock:
            return turn == self._turn
