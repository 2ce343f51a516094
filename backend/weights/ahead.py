"""Making the next pieces while the last one is used: several threads, one order. Knows nothing about weights.

Reading, checksums, hashing and array arithmetic all let other threads run, so plain threads keep every processor and
the disk busy.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from itertools import islice
from typing import TypeVar

Piece = TypeVar("Piece")

_THREADS = 2  # beside the one that uses what they make
_AHEAD = 4  # pieces being made or waiting to be used: what bounds the memory


def made_ahead(tasks: Iterable[Callable[[], Piece]]) -> Generator[Piece]:
    """Yield what the tasks return, in their order. The first that fails ends it with its exception.

    Each task runs once, on any thread, beside others; none is begun long before its result is wanted.
    """
    left = iter(tasks)
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="weights")
    try:
        waiting = deque(_begin(pool, task) for task in islice(left, _AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(_begin(pool, task) for task in islice(left, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(pool: ThreadPoolExecutor, task: Callable[[], Piece]) -> Future[Piece]:
    """Begin a task that sees the context variables of who wants its result."""
    return pool.submit(copy_context().run, task)
