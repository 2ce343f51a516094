"""The seam between the text of a reply and how its tokens are computed. Knows nothing about either."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from backend.engines.base import Sampling
from backend.errors import CriaError

Reused = Callable[[int], None]


def nobody(_: int) -> None:
    """Nobody wants to know."""


class TokenSource(Protocol):
    """Computes tokens: many requests in one batch, or one at a time. ``slots`` is how many at once."""

    slots: int

    def stream(
        self, ids: Sequence[int], sampling: Sampling, limit: int, reused: Reused = nobody
    ) -> AsyncIterator[Sequence[int]]:
        """Yield new tokens as they are computed, the ending token included. Closing it ends the computation.

        ``reused`` is told how many tokens of the prompt need no computing, as an earlier request began alike. Any
        thread.

        Raises:
            EngineError: the computation failed.
        """
        ...

    def computed(self) -> int:
        """Return how many tokens were computed since the start."""
        ...

    def steps(self) -> int:
        """Return a number that grows whenever computing gets on: with a token, and with a chunk of a long prompt."""
        ...

    def cache(self) -> tuple[int, int]:
        """Return (used, total) tokens of cache; (0, 0) where there is no fixed one."""
        ...

    def problem(self) -> CriaError | None:
        """Return why nothing more can be computed, if that is so."""
        ...

    def close(self) -> None:
        """Stop computing."""
        ...


class Mailbox:
    """Hands things from a computing thread to the event loop that waits for them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Sequence[int] | CriaError | None] = asyncio.Queue()

    def put(self, item: Sequence[int] | CriaError | None) -> None:
        """Put new tokens, an error, or None for the end. Any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def get(self) -> Sequence[int] | None:
        """Return new tokens, None at the end; raises the error that was put."""
        item = await self._queue.get()
        if isinstance(item, CriaError):
            raise item
        return item
