"""Text as llama.cpp computes it, from a prompt of token ids: one thread waits for each reply. Knows nothing about chat
templates, stop strings or HTTP.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from backend.engines.adapters import Scales, choose_scales
from backend.engines.base import Lora, Sampling
from backend.engines.llamacpp_server.adapters import Gate, lora_fields
from backend.engines.llamacpp_server.sampling import request_fields
from backend.engines.llamacpp_server.seats import Seats
from backend.errors import EngineError


class Server(Protocol):
    """What is used of ``xllamacpp.Server``: calls back with each chunk until that returns True; raises nothing."""

    def handle_completions(self, request: Mapping[str, Any], callback: Callable[[Any], bool], /) -> Any:
        """Answer one request."""
        ...


@dataclass(frozen=True)
class Chunk:
    """New text, tokens so far, and in the last one why it ended: "stop" for an end token, "length". ``at``: when it was
    computed, on the clock of ``time.monotonic``, however late an event loop that is held up gets to it.
    """

    text: str
    tokens: int
    ended: str = ""
    at: float = field(default=0.0, compare=False)


class Completions:
    """Requests on their way. ``steps`` grows with every token and every piece of a prompt; ``computed`` with tokens."""

    def __init__(self, server: Server, loras: Sequence[Lora] = (), *, slots: int = 0) -> None:
        self._server, self._loras, self._gate, self._seats = server, tuple(loras), Gate(), Seats(slots)
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
            UsageError: an adapter is asked for that is not attached.
        """
        scales = choose_scales(self._loras, sampling)
        async with self._gate.held(scales), aclosing(self._answers(ids, sampling, most, scales)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _answers(
        self, ids: Sequence[int], sampling: Sampling, most: int, scales: Scales
    ) -> AsyncGenerator[Chunk, None]:
        request = _Request(self, asyncio.get_running_loop(), len(ids))
        body = {
            "prompt": list(ids),
            "stream": True,
            "cache_prompt": True,
            "return_progress": True,  # a chunk for every batch of a prompt: what a stop can take hold of
            "timings_per_token": True,
            **request_fields(sampling, prompt=len(ids), most=most),
            **lora_fields(scales),
        }

        def run() -> None:
            seat = self._seats.take(ids, scales)  # not in the event loop: prompts are long, and it compares them
            end = request.run(self._server, {**body, "id_slot": seat})
            self._seats.give_back(seat)  # not when its reader leaves: llama.cpp may still be at it
            request.put(end)  # after that: who asks again at once finds the seat free, with what it has read

        threading.Thread(target=run, name="completion", daemon=True).start()
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
        self._end: Chunk | EngineError = EngineError("engine.computation_ended")

    def run(self, server: Server, body: Mapping[str, Any]) -> Chunk | EngineError:
        """Put everything but the end into the queue; return the end, or an error. Raises nothing."""
        try:
            server.handle_completions(body, self._take)
        except Exception as problem:  # noqa: BLE001 - the end of a thread that nobody awaits
            self._end = EngineError("engine.computation_failed", what=str(problem)[:300] or type(problem).__name__)
        finally:
            self._all.forget(self)
        return self._end

    def _take(self, data: Any) -> bool:
        """Note what llama.cpp says; returns whether it should stop."""
        try:
            item = self._read(data)
        except (KeyError, IndexError, TypeError, ValueError) as problem:
            item = EngineError("engine.nonsense", what=str(problem)[:200])
        if isinstance(item, EngineError):
            self._end = item
            return True
        if item is not None and item.ended:
            self._end = item
        elif item is not None:
            self.put(item)
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
        return Chunk(text, tokens, ended, time.monotonic()) if text or ended else None

    def put(self, item: Chunk | EngineError) -> None:
        """Hand an item to whoever reads. Any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)
