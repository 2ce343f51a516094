"""Makes prompts in threads, each within a time, and notices when too many threads never come back.

A chat template runs in a process that can be ended; a tokenizer is a library's code, also somebody's data, and a thread
cannot be ended. So a request is given up after a time, and when several threads hang, this process cannot help itself:
it says so, and whoever started it starts another. Knows nothing about what a prompt is.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from backend.errors import CriaError, EngineError

TIMEOUT_S = 30.0  # a template or tokenizer that takes longer than this is not going to end
THREADS = 8
_START_S = 5.0
MOST_STUCK = 4
T = TypeVar("T")


class Preparing:
    """A pool of threads. Lives in one event loop."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(THREADS, "prepare")
        every = threading.Barrier(THREADS)
        for _ in range(THREADS):  # all threads now: where memory is short, one that cannot start is waited for in vain
            self._pool.submit(every.wait, _START_S)  # not for ever: the process could not end
        self._open: dict[Future[object], float] = {}  # what runs, and when it should have come back

    async def run(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns.

        Raises:
            EngineError: it takes too long.
        """
        future = self._pool.submit(work)
        self._open = {one: until for one, until in self._open.items() if not one.done()}
        self._open[future] = time.monotonic() + self._timeout_s  # type: ignore[index] # invariant in T
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout_s)
        except TimeoutError as problem:
            raise EngineError("engine.prompt_too_slow", seconds=self._timeout_s) from problem

    def problem(self) -> CriaError | None:
        """Return why no more prompts should be taken, if that is so."""
        now = time.monotonic()
        stuck = sum(one.running() and now > until for one, until in self._open.items())
        return EngineError("hard.stuck_prompts", count=stuck, seconds=self._timeout_s) if stuck >= MOST_STUCK else None
