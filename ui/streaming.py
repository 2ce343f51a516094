"""When the page gets the next piece of a reply. Knows nothing about gradio, conversations or engines.

A browser re-renders the open Markdown block at every update and touches the whole conversation; gradio has no
back-pressure, so a page that is fed faster than it draws falls behind and goes on "typing" long after the model is
done. Updates therefore come at most 15 times a second, and less often the more there is to draw. The first and the
last text never wait.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

FASTEST_S, SLOWEST_S = 1 / 15, 0.5
# Seconds of drawing per character, measured in Chromium on two busy cores: the open block is parsed and laid out
# anew, the rest of the conversation is only walked through.
OPEN_BLOCK_S, CONVERSATION_S = 25e-6, 0.7e-6
HEARTBEAT_S = 0.4  # only an update notices that the page has gone, so there is one at least this often

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_UNDECIDED = re.compile(r"[\s\d.)*+-]*")  # may yet become a list item
_LIST = re.compile(r" {0,3}([-*+]|\d{1,9}[.)])\s")

T = TypeVar("T")


class OpenBlock:
    """Finds where the last top-level Markdown block of a growing text starts. A fence, list or table is one block."""

    def __init__(self) -> None:
        self._line = ""
        self._length = 0
        self._start = 0
        self._fence = ""
        self._in_list = False
        self._after_blank = True

    def feed(self, text: str) -> None:
        """Take the next characters of the text."""
        for part in text.splitlines(keepends=True):
            self._line += part
            self._length += len(part)
            if part.endswith(("\n", "\r")):
                self._end_line()
            elif self._after_blank and not _UNDECIDED.fullmatch(self._line):
                self._maybe_start()

    @property
    def length(self) -> int:
        """Characters since the open block began."""
        return self._length - self._start

    def _maybe_start(self) -> None:
        """A visible line after a blank one starts a block, unless it goes on with a fence or a list."""
        if self._fence or not self._line.strip():
            return
        goes_on = self._in_list and (self._line[0] in " \t" or bool(_LIST.match(self._line)))
        if not goes_on:
            self._start = self._length - len(self._line)
            self._in_list = bool(_LIST.match(self._line))
        self._after_blank = False

    def _end_line(self) -> None:
        line = self._line
        if self._after_blank:
            self._maybe_start()
        fence = _FENCE.match(line)
        if self._fence:
            if fence and fence[1].startswith(self._fence) and not line[fence.end() :].strip():
                self._fence = ""
        elif fence:
            self._fence = fence[1]
        elif _LIST.match(line):
            self._in_list = True
        self._after_blank = not self._fence and not line.strip()
        self._line = ""


class Pacer:
    """Says how long an update should wait. Times are seconds on any steady clock."""

    def __init__(self, history_chars: int = 0) -> None:
        self._conversation = history_chars
        self._block = OpenBlock()
        self._last: float | None = None

    def feed(self, text: str) -> None:
        """Take note of text that the next update will show."""
        self._conversation += len(text)
        self._block.feed(text)

    @property
    def interval(self) -> float:
        """Seconds between two updates, for what there is to draw now."""
        drawing = OPEN_BLOCK_S * self._block.length + CONVERSATION_S * self._conversation
        return min(SLOWEST_S, max(FASTEST_S, drawing))

    def wait(self, now: float) -> float:
        """Return how many seconds the next update should wait; none before the first."""
        return 0.0 if self._last is None else max(0.0, self._last + self.interval - now)

    def sent(self, now: float) -> None:
        """Take note that an update went out."""
        self._last = now


@dataclass
class _Inbox(Generic[T]):
    """What has arrived since the last update."""

    items: list[T] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self) -> list[T]:
        taken, self.items = self.items, []
        self.news.clear()
        return taken


async def _pump(source: AsyncIterator[T], inbox: _Inbox[T]) -> None:
    """Run a source from start to end in one task: a network stream must be closed by the task that opened it."""
    try:
        async for item in source:
            inbox.items.append(item)
            inbox.news.set()
    finally:
        inbox.ended.set()
        inbox.news.set()
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def paced(
    source: AsyncIterator[T], pacer: Pacer, heartbeat: float = HEARTBEAT_S
) -> AsyncGenerator[list[T], None]:
    """Yield what arrived from ``source`` in batches, as often as the pacer allows; an empty batch is a heartbeat.

    The caller feeds the pacer with the text of each batch. Closing this iterator closes ``source`` and waits for it,
    so that whatever it computes has stopped. An exception of ``source`` comes out here, after everything that came
    before it.
    """
    inbox: _Inbox[T] = _Inbox()
    clock = asyncio.get_running_loop().time
    task = asyncio.create_task(_pump(source, inbox))
    try:
        while not inbox.ended.is_set():
            await _wait(inbox.news, heartbeat)
            if inbox.items:
                await _wait(inbox.ended, pacer.wait(clock()))
                pacer.sent(clock())
            yield inbox.take()
        if inbox.items:
            yield inbox.take()
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen above, or nobody is left to tell
