"""Text as llama.cpp computes it, from a prompt of token ids: one thread waits for each reply. Knows nothing about chat
templates, stop strings or HTTP.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from backend.engines.base import Sampling
from backend.engines.llamacpp_server.sampling import request_fields
from backend.errors import EngineError


class Server(Protocol):
    """What is used of ``xllamacpp.Server``: calls back with each chunk until that returns True; raises nothing."""

    def handle_completions(self, request: Mapping[str, Any], callback: Callable[[Any], bool], /) -> Any:
        """Answer one request."""
        ...


@dataclass(frozen=True)
class Chunk:
    """New text, tokens so far, and in the last one why it ended: "stop" for an end token, "length"."""

    text: str
    tokens: int
    ended: str = ""


class Completions:
    """Requests on their way. ``steps`` grows with every token and every piece of a prompt; ``computed`` with tokens."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._held: dict[object, int] = {}  # tokens that each request has in the cache
        self.steps = 0
        self.computed = 0

    def cache_used(self) -> int:
        """Return the tokens that requests under way hold."""
        with self._lock:
            return sum(self._held.values())

    async def stream(self, ids: Sequence[int], sampling: Sampling, most: int) -> AsyncIterator[Chunk]:
        """Yield text as it is computed. Closing it ends the computation: within one token, or one batch of a prompt.

        Raises:
            EngineError: llama.cpp refused the request or failed.
        """
        request = _Request(self, asyncio.get_running_loop(), len(ids))
        body = {
            "prompt": list(ids),
            "stream": True,
            "cache_prompt": True,
            "return_progress": True,  # a chunk for every batch of a prompt: what a stop can take hold of
            "timings_per_token": True,
            **request_fields(sampling, prompt=len(ids), most=most),
        }
        threading.Thread(target=request.run, args=(self._server, body), name="completion", daemon=True).start()
        try:
            while True:
                item = await request.queue.get()
                if isinstance(item, EngineError):
                    raise item
                yield item
                if item.ended:
                    return
        finally:
            request.left.set()

    def note(self, request: object, held: int, tokens: int) -> None:
        """Take note of a step of a request: how many tokens it holds, and how many are new. Any thread."""
        with self._lock:
            self.steps += 1
            self.computed += tokens
            self._held[request] = held

    def forget(self, request: object) -> None:
        """Take note that a request is over."""
        with self._lock:
            self._held.pop(request, None)


class _Request:
    """One request and the thread that waits for it."""

    def __init__(self, all_: Completions, loop: asyncio.AbstractEventLoop, prompt: int) -> None:
        self.queue: asyncio.Queue[Chunk | EngineError] = asyncio.Queue()
        self.left = threading.Event()  # nobody listens any more
        self._all, self._loop, self._prompt = all_, loop, prompt
        self._tokens = 0
        self._ended = False

    def run(self, server: Server, body: Mapping[str, Any]) -> None:
        """Answer; the last item of the queue is an end or an error."""
        try:
            server.handle_completions(body, self._take)
            if not self._ended:
                self._put(EngineError("engine.computation_ended"))
        except Exception as problem:  # noqa: BLE001 - the end of a thread that nobody awaits
            self._put(EngineError("engine.computation_failed", what=str(problem)[:300] or type(problem).__name__))
        finally:
            self._all.forget(self)

    def _take(self, data: Any) -> bool:
        """Note what llama.cpp says; returns whether it should stop."""
        try:
            item = self._read(data)
        except (KeyError, IndexError, TypeError, ValueError) as problem:
            item = EngineError("engine.nonsense", what=str(problem)[:200])
        if item is not None:
            self._ended = isinstance(item, EngineError) or bool(item.ended)
            self._put(item)
        return self.left.is_set()

    def _read(self, data: Any) -> Chunk | EngineError | None:
        if "error" in data:
            return EngineError("engine.computation_failed", what=str(data["error"].get("message"))[:300])
        timings, choice = data.get("timings") or {}, data["choices"][0]
        tokens = max(self._tokens, int(timings.get("predicted_n") or 0))
        read = int(timings.get("cache_n") or 0) + int(timings.get("prompt_n") or 0)
        self._all.note(self, min(read, self._prompt) + tokens, tokens - self._tokens)
        self._tokens = tokens
        text, ended = str(choice["text"] or ""), str(choice["finish_reason"] or "")
        return Chunk(text, tokens, ended) if text or ended else None

    def _put(self, item: Chunk | EngineError) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)
