"""How long nobody has asked for anything. Knows nothing about what is asked, or what follows from the answer."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Idle:
    """Counts open requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._ended = time.monotonic()

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Count one request while the block runs."""
        with self._lock:
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open, self._ended = self._open - 1, time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since the last request ended; 0 while one is open."""
        with self._lock:
            return 0.0 if self._open else time.monotonic() - self._ended
