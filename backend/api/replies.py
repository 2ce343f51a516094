"""One reply on its way to a client: cut at stop strings, in pieces or whole, given up when the client leaves.

Knows nothing about keys, routes or which engine answers.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import Request

from backend.api.errors import error_answer, told
from backend.api.schema import PublicRequest
from backend.engines import protocol
from backend.engines.base import Finish, Piece, Usage
from backend.engines.stops import StopStrings

LOOK_S = 0.5  # how often to look whether the client is still there while nothing comes
STATUS_S = 10.0  # how long an error can still become a status; after that the stream begins and carries it
ALIVE_S = 15.0  # a proxy gives up on a silent connection
_ALIVE = b": waiting\n\n"
_KNOWN = {Finish.CONTEXT: Finish.LENGTH, Finish.TIME: Finish.LENGTH}  # to clients
T = TypeVar("T")


class ClientLeft(Exception):
    """The client closed the connection."""


async def pulsed(items: AsyncIterator[T], every_s: float) -> AsyncGenerator[T | None, None]:
    """Yield the items, and ``None`` whenever none came for ``every_s`` seconds. Closing it closes the source."""
    following: asyncio.Task[T] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(_next(items))
            await asyncio.wait({following}, timeout=every_s)
            if not following.done():
                yield None
                continue
            done, following = following, None
            try:
                item = done.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait({following})
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def cut(pieces: AsyncIterator[Piece | None], stops: list[str]) -> AsyncGenerator[Piece | None, None]:
    """Pass pieces through until a stop string comes; neither it nor a part of it is ever shown."""
    if not stops:
        async for piece in pieces:
            yield piece
        return
    watch, tokens = StopStrings(stops), 0
    async for piece in pieces:
        if piece is None:
            yield None
            continue
        tokens = piece.tokens or tokens
        text = watch.feed(piece.text)
        if watch.hit:
            yield Piece(text, tokens, Finish.STOP, piece.usage or Usage(completion_tokens=tokens))
            return
        yield replace(piece, text=text + (watch.finish() if piece.finish else ""))


class Reply:
    """One answer to one request: ``begin``, then either ``events`` or ``whole``, and ``close`` in the end."""

    def __init__(self, pieces: AsyncIterator[Piece], asked: PublicRequest, model: str) -> None:
        self._source = pulsed(pieces, LOOK_S)
        self._pieces = cut(self._source, asked.stop)
        self._asked = asked
        self._head = protocol.reply_head(
            f"chatcmpl-{uuid.uuid4().hex}", model, int(time.time()), streaming=asked.stream
        )
        self._first: Piece | None = None

    async def begin(self, request: Request) -> None:
        """Wait for the first piece, but not for ever: what fails until then is an error with a status of its own.

        Raises:
            CriaError: the engine refused, or failed before it said anything.
            ClientLeft: nobody waits any more.
        """
        latest = time.monotonic() + STATUS_S
        async for piece in self._pieces:
            self._first = piece
            if piece is not None or (self._asked.stream and time.monotonic() > latest):
                return
            if await request.is_disconnected():
                raise ClientLeft

    async def close(self) -> None:
        """Stop the computation, if there is still one."""
        await self._pieces.aclose()
        await self._source.aclose()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the reply as server-sent events; an error in mid-reply is the last event."""
        opening = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        try:
            yield protocol.sse({**self._head, "choices": [opening]})
            quiet_s = 0.0
            async for piece in self._all():
                quiet_s = quiet_s + LOOK_S if piece is None else 0.0
                for event in self._chunks(piece) if piece else ():
                    yield event
                if quiet_s >= ALIVE_S:
                    quiet_s = 0.0
                    yield _ALIVE
            yield protocol.DONE
        except Exception as problem:  # noqa: BLE001 - the headers are out: an event is the only way left to say it
            yield protocol.sse(error_answer(told(problem))[1])

    async def whole(self, request: Request) -> dict[str, Any]:
        """Return the reply as one document.

        Raises:
            CriaError: the engine failed; what it had said is of no use to a program.
            ClientLeft: nobody waits any more.
        """
        parts: list[str] = []
        finish, usage = Finish.STOP, Usage()
        async for piece in self._all():
            if piece is not None:
                parts.append(piece.text)
                finish, usage = piece.finish or finish, piece.usage or usage
            if await request.is_disconnected():
                raise ClientLeft
        return protocol.whole_json(self._head, "".join(parts), _KNOWN.get(finish, finish), usage)

    async def _all(self) -> AsyncGenerator[Piece | None, None]:
        if self._first is not None:
            yield self._first
        async for piece in self._pieces:
            yield piece

    def _chunks(self, piece: Piece) -> list[bytes]:
        """Return a piece as OpenAI's clients know it: text, then the reason, then (if asked for) the counts."""
        chunks = [protocol.chunk_json(self._head, piece.text, tokens=piece.tokens)] if piece.text else []
        if piece.finish:
            finish = _KNOWN.get(piece.finish, piece.finish)
            chunks.append(protocol.chunk_json(self._head, "", tokens=piece.tokens, finish=finish))
            if self._asked.stream_options.include_usage:
                usage = protocol.usage_json(piece.usage or Usage(completion_tokens=piece.tokens))
                chunks.append({**self._head, "choices": [], "usage": usage})
        return [protocol.sse(chunk) for chunk in chunks]
