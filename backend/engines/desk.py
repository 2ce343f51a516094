"""Who is being answered and who waits: a fair, bounded queue in front of a generator, with live figures.

Knows nothing about HTTP or models.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backend.engines.base import SHORTEST_S
from backend.errors import EngineError

MAX_WAITING = 64
_WINDOW_S = 5.0


class Desk:
    """First come, first served; at most ``MAX_WAITING`` wait. Lives in one event loop."""

    def __init__(self) -> None:
        self.active = 0
        self.short = 0  # replies that ended for want of memory
        self._line: deque[asyncio.Future[None]] = deque()
        self._steps: deque[tuple[float, int]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._line)

    def check_open(self) -> None:
        """Make sure that one more may wait.

        Raises:
            EngineError: the queue is full.
        """
        if len(self._line) >= MAX_WAITING:
            raise EngineError("engine.queue_full", waiting=len(self._line))

    @asynccontextmanager
    async def slot(self, slots: int) -> AsyncIterator[None]:
        """Hold one of ``slots`` places while the block runs; who leaves while waiting gives up the place."""
        if self.active >= slots or self._line:
            turn = asyncio.get_running_loop().create_future()
            self._line.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._line:
                    self._line.remove(turn)
                if not turn.cancelled():  # called in the very moment of leaving: the place goes to the next
                    self._leave(slots)
                raise
        else:
            self.active += 1
        try:
            yield
        finally:
            self._leave(slots)

    def _leave(self, slots: int) -> None:
        self.active -= 1
        while self._line and self.active < slots:
            turn = self._line.popleft()
            if not turn.done():
                self.active += 1
                turn.set_result(None)

    def count(self, tokens: int) -> None:
        """Note that tokens were produced now."""
        self._steps.append((time.monotonic(), tokens))
        self._forget()

    def tokens_per_s(self) -> float:
        """Return tokens per second of all replies together over the last seconds."""
        self._forget()
        elapsed = time.monotonic() - self._steps[0][0] if self._steps else 0.0
        if len(self._steps) < 2 or elapsed < SHORTEST_S:
            return 0.0
        return sum(tokens for _, tokens in self._steps) / elapsed

    def _forget(self) -> None:
        oldest = time.monotonic() - _WINDOW_S
        while self._steps and self._steps[0][0] < oldest:
            self._steps.popleft()
