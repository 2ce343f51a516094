"""``Generator`` over another OpenAI-compatible server: asks it, streams what it says, puts its failures in our words.

Knows nothing about how that server was found or started.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import httpx

from backend.engines.base import ChatMessage, Piece, Sampling
from backend.engines.client import CONNECT_TIMEOUT_S, Endpoint, stream_chat, tls
from backend.engines.generator import Prompt, Step
from backend.engines.relay.address import host_of
from backend.errors import CriaError, EngineError
from backend.text import Message

SLOTS = 64  # the other server queues by itself; this only bounds what we ask at once
LIST_TIMEOUT_S = 10.0
_MAX_LIST = 4 << 20
_CONTEXTS = ("max_model_len", "context_length", "max_context_length", "context_window")  # names in use for it
_OURS = ("top_k", "repetition_penalty", "loras")  # not in OpenAI's protocol: some servers refuse what they do not know
_BY_STATUS = {401: "remote.key", 403: "remote.key", 404: "remote.no_model", 429: "remote.busy"}


@dataclass(frozen=True)
class Offered:
    """A model that a server offers. ``context`` is in tokens, 0 when it does not say."""

    name: str
    context: int = 0


@dataclass(frozen=True)
class _Conversation(Prompt):
    """A prompt that is rendered at the other end: there is no telling its tokens here."""

    messages: tuple[ChatMessage, ...] = ()


def list_models(endpoint: Endpoint, timeout_s: float = LIST_TIMEOUT_S) -> tuple[Offered, ...]:
    """Return the models a server offers.

    Raises:
        EngineError: it cannot be reached, refuses the key, or does not speak the protocol.
    """
    host = host_of(endpoint.url)
    try:
        with (
            httpx.Client(timeout=timeout_s, trust_env=False, verify=tls(endpoint.url)) as client,
            client.stream("GET", f"{endpoint.url}/v1/models", headers=endpoint.headers) as response,
        ):
            status, body, end = response.status_code, b"", time.monotonic() + timeout_s
            for part in response.iter_bytes():
                body += part
                if len(body) > _MAX_LIST or time.monotonic() > end:  # httpx's time-out is one of each read
                    raise EngineError("remote.not_openai", host=host)
            response = httpx.Response(status, content=body)
    except httpx.HTTPError as problem:
        raise EngineError("remote.unreachable", host=host, what=_words(problem)) from problem
    if status != httpx.codes.OK:
        key = _BY_STATUS.get(status, "remote.not_openai") if status != httpx.codes.NOT_FOUND else "remote.not_openai"
        raise EngineError(key, host=host)
    try:
        listed = response.json()["data"]
        return tuple(Offered(str(one["id"])[:500], _context(one)) for one in listed[:1000])
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise EngineError("remote.not_openai", host=host) from problem


def choose_model(offered: Sequence[Offered], wanted: str, host: str) -> Offered:
    """Return the wanted model, or the first one when none is named.

    Raises:
        EngineError: it is not there; the message lists what is.
    """
    if not offered:
        raise EngineError("remote.nothing_loaded", host=host)
    found = next((one for one in offered if wanted in {"", one.name}), None)
    if found is None:
        names = ", ".join(one.name for one in offered[:10])
        raise EngineError("remote.not_there", host=host, asked=wanted[:200], known=names)
    return found


def _context(one: Mapping[str, Any]) -> int:
    meta = one.get("meta")
    named = [one.get(name) for name in _CONTEXTS] + [meta.get("n_ctx") if isinstance(meta, dict) else None]
    return next((value for value in named if type(value) is int and 0 < value < 1 << 31), 0)


class Upstream:
    """``Generator`` over a server that computes the tokens."""

    slots = SLOTS

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        context: int,
        placement: Message,
        note: Message | None = None,
        fault: Callable[[], CriaError | None] | None = None,
        model_of: Callable[[Sampling], str] | None = None,
    ) -> None:
        """``fault`` tells why the other server can answer no more, if that is known; ``model_of`` under which name it
        answers a request in the wanted way, where that depends on it."""
        self._endpoint, self._fault, self._model_of = endpoint, fault, model_of
        self.model, self.context, self.placement, self.note = endpoint.model, context, placement, note
        self._made = 0

    def prepare(self, messages: Sequence[ChatMessage], sampling: Sampling) -> Prompt:  # noqa: ARG002 - the protocol's
        """Keep the conversation: its template and tokenizer are at the other end."""
        return _Conversation(0, messages=tuple(messages))

    async def generate(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Step]:
        """Stream one reply; closing it closes the connection, which is how any server learns to stop."""
        messages = prompt.messages if isinstance(prompt, _Conversation) else ()
        try:
            async for step in self._steps(messages, sampling):
                yield step
        except EngineError as error:
            if not self._is_about_our_own_words(error):
                raise await self._translated(error) from error
            self._endpoint = replace(self._endpoint, left_out=_OURS)
            try:
                async for step in self._steps(messages, sampling):
                    yield step
            except EngineError as again:
                raise await self._translated(again) from again

    async def _steps(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Step]:
        endpoint = self._endpoint
        if self._model_of is not None:
            endpoint, sampling = replace(endpoint, model=self._model_of(sampling)), replace(sampling, loras=None)
        async with aclosing(stream_chat(endpoint, messages, sampling)) as pieces:
            tokens = 0
            async for piece in pieces:
                self._made += max(0, piece.tokens - tokens)
                tokens = max(tokens, piece.tokens)
                yield _step(piece)

    def _is_about_our_own_words(self, error: EngineError) -> bool:
        """Tell whether a server refuses a field that only some know; that comes before the first word."""
        what = str(error.params.get("what", ""))
        refused = error.key == "engine.refused" and error.params.get("status") in {400, 422}
        return refused and not self._endpoint.left_out and any(name in what for name in _OURS)

    async def _translated(self, error: EngineError) -> CriaError:
        """Return what a person can do something about. Nothing of our request is in it, so no key is either."""
        what, host = str(error.params.get("what", "")), host_of(self._endpoint.url)
        if error.key in {"engine.lost", "engine.cut_off"}:
            if self._fault is not None and (fault := await _soon(self._fault)) is not None:
                return fault
            return EngineError("remote.unreachable", host=host, what=what or "-")
        if error.key == "engine.refused":
            key = _BY_STATUS.get(int(error.params.get("status") or 0))
            return EngineError(key, host=host) if key else EngineError("remote.refused", host=host, what=what)
        return error

    def figures(self) -> Mapping[str, int]:
        """Return live figures. The other server's silence is bounded by a time-out, so steps follow the clock here."""
        steps = int(time.monotonic())
        return {"computed_tokens": self._made, "steps": steps, "gpu_memory_bytes": 0, "cache_used": 0, "cache_total": 0}

    def problem(self) -> CriaError | None:
        """Return why nothing more can be generated, if that is known."""
        return self._fault() if self._fault is not None else None

    def close(self) -> None:
        """Connections end with the process."""


async def _soon(fault: Callable[[], CriaError | None]) -> CriaError | None:
    """Return a fault that shows within a second: a connection breaks a moment before its process is seen to be gone."""
    for _ in range(20):
        found = fault()
        if found is not None:
            return found
        await asyncio.sleep(0.05)
    return None


def _step(piece: Piece) -> Step:
    return Step(piece.text, piece.tokens, piece.finish, piece.usage.prompt_tokens if piece.usage else 0)


def _words(problem: httpx.HTTPError) -> str:
    if isinstance(problem, httpx.TimeoutException):
        return f"{type(problem).__name__} ({CONNECT_TIMEOUT_S:.0f} s)"
    return str(problem)[:200] or type(problem).__name__
