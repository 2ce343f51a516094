"""The other end of the wire: streams one reply from an engine's URL as ``Piece``s. Knows nothing about processes.

Any server that speaks OpenAI's chat protocol will do; what only Cria's own engines send (token counts as they go, error
records) is used where it is there.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from backend.engines import protocol
from backend.engines.base import ChatMessage, Finish, Piece, Sampling, Usage
from backend.errors import CriaError, EngineError, error_from_json
from backend.text import has

CONNECT_TIMEOUT_S = 10.0
_MAX_EVENT = 16 << 20  # bytes of one line; more is not a chat chunk
_MAX_REFUSAL = 1 << 20  # bytes
_REFUSAL_S = 10.0
_MOST_OF_A_TOKEN = 256  # characters; another server need not keep to the number of tokens that it was asked for


@dataclass(frozen=True)
class Endpoint:
    """Where an engine listens, and what to show it."""

    url: str
    key: str = field(default="", repr=False)
    model: str = ""
    silence_s: float | None = None  # the longest wait for the next bytes; None: for ever (our own engines are watched)
    left_out: tuple[str, ...] = ()  # fields of a request that this server does not take

    @property
    def headers(self) -> dict[str, str]:
        """The headers every request carries."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


def tls(url: str) -> ssl.SSLContext:
    """Return how to speak TLS to a server: not at all on loopback, where reading the certificates would cost 30 ms."""
    return _certificates() if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Ended:
    """What the stream said about its own end, which may come in several chunks."""

    def __init__(self) -> None:
        self.tokens = 0
        self.finish: Finish | None = None
        self.usage: Usage | None = None
        self.so_far: Usage | None = None

    def take(self, chunk: Mapping[str, Any]) -> str:
        """Note what a chunk says, return its new text."""
        if isinstance(chunk.get("usage"), dict):
            self.usage = protocol.usage_from_json(chunk["usage"])
        choices = chunk.get("choices") or []
        if not choices:
            return ""
        if choices[0].get("finish_reason"):
            self.finish = _finish(str(choices[0]["finish_reason"]))
        text = str((choices[0].get("delta") or {}).get("content") or "")
        own = chunk.get("cria") or {}
        counted = own.get("tokens")
        self.tokens = int(counted) if isinstance(counted, int) else self.tokens + bool(text)
        self.so_far = protocol.usage_so_far(own, self.tokens)
        return text


def _finish(reason: str) -> Finish:
    return Finish(reason) if reason in set(Finish) else Finish.STOP


async def stream_chat(
    endpoint: Endpoint, messages: Sequence[ChatMessage], sampling: Sampling
) -> AsyncGenerator[Piece, None]:
    """Stream one reply. Closing the generator closes the connection, which stops the computation at the other end.

    A task of its own reads the connection: cancelling it ends the read cleanly, whereas closing httpx's generators from
    outside leaves the inner ones to the garbage collector.

    Raises:
        ContextFull, EngineError: as the engine says; ``engine.lost`` or ``engine.cut_off`` when the connection broke.
    """
    arrived: asyncio.Queue[Piece | None] = asyncio.Queue()

    async def read() -> None:
        try:
            async for piece in _pieces(endpoint, messages, sampling):
                arrived.put_nowait(piece)
        finally:
            arrived.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (piece := await arrived.get()) is not None:
            yield piece
        await reading  # raises what ended it
    finally:
        reading.cancel()
        await asyncio.wait((reading,))
        if not reading.cancelled():
            reading.exception()  # seen: nobody is left who wants it


async def _pieces(endpoint: Endpoint, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
    asked = protocol.request_json(messages, sampling, model=endpoint.model)
    body = {name: value for name, value in asked.items() if name not in endpoint.left_out}
    timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S, read=endpoint.silence_s)
    client = httpx.AsyncClient(timeout=timeout, trust_env=False, verify=tls(endpoint.url))
    try:
        async with (
            client,
            client.stream(
                "POST", f"{endpoint.url}/v1/chat/completions", json=body, headers=endpoint.headers
            ) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise _refusal(response.status_code, await _said(response))
            ended, room = _Ended(), _MOST_OF_A_TOKEN * sampling.max_new_tokens
            async for chunk in _events(response):
                try:
                    text = ended.take(chunk)
                except (AttributeError, KeyError, TypeError, ValueError) as problem:
                    raise EngineError("engine.nonsense", what=repr(chunk)[:80]) from problem
                room -= len(text)
                if room < 0:
                    raise EngineError("remote.endless", most=sampling.max_new_tokens)
                if text:
                    yield Piece(text, ended.tokens, usage=ended.so_far)
    except (httpx.HTTPError, httpx.StreamError) as problem:
        raise EngineError("engine.lost", what=str(problem) or type(problem).__name__) from problem
    if ended.finish is None:
        raise EngineError("engine.cut_off")
    yield Piece("", ended.tokens, ended.finish, ended.usage or Usage(completion_tokens=ended.tokens))


async def _said(response: httpx.Response) -> bytes:
    """Return what a refusal says, or as much of it as comes soon: another server need not come to an end."""
    body = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(_REFUSAL_S):
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MAX_REFUSAL:
                    break
    return body


async def _events(response: httpx.Response) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the JSON of each server-sent event up to ``[DONE]``.

    Lines end with LF here, nothing else: other line splitters also cut at separators that may stand inside a string.
    """
    pending = b""
    async for data in response.aiter_bytes():
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            payload = line[5:].strip()
            if payload == b"[DONE]":
                return
            yield _event(payload)
        if len(pending) > _MAX_EVENT:
            raise EngineError("engine.nonsense", what=repr(pending[:80]))


def _event(payload: bytes) -> Mapping[str, Any]:
    try:
        chunk = json.loads(payload)
    except (ValueError, RecursionError) as problem:
        raise EngineError("engine.nonsense", what=repr(payload[:80])) from problem
    if not isinstance(chunk, dict):
        raise EngineError("engine.nonsense", what=repr(payload[:80]))
    if chunk.get("error"):
        raise _error(chunk["error"], 0)
    return chunk


def _refusal(status: int, body: bytes) -> CriaError:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return EngineError("engine.refused", status=status, what=body[:300].decode("utf-8", "replace"))
    return _error(data.get("error") if isinstance(data, dict) else None, status)


def _error(record: Any, status: int) -> CriaError:
    """Rebuild an error from an error record: Cria's own if it is there, else whatever message it has."""
    record = record if isinstance(record, dict) else {"message": str(record)}
    own = record.get("cria")
    if isinstance(own, dict) and "key" in own:
        # Another server may send anything in its place: a sentence that cannot be said is none.
        with suppress(TypeError, ValueError, KeyError, AttributeError, RecursionError):
            error = error_from_json(own)
            if has(error.message.key) and error.text():
                return error
    return EngineError("engine.refused", status=status, what=str(record.get("message", ""))[:300])
