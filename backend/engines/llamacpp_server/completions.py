"""Text as llama.cpp computes it, from a prompt of token ids: one thread waits for each reply. Knows nothing about chat
templates, stop strings or HTTP.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from backend.engines.adapters import Scales, choose_scales
from backend.engines.base import Lora, Sampling
from backend.engines.llamacpp_server.adapters import Gate, lora_fields
from backend.engines.llamacpp_server.copies import Copies
from backend.engines.llamacpp_server.sampling import request_fields
from backend.engines.llamacpp_server.seats import ANY, Seats
from backend.engines.llamacpp_server.serving import Server
from backend.engines.llamacpp_server.sharing import Sharing
from backend.errors import EngineError


@dataclass(frozen=True)
class Chunk:
    """New text, tokens so far, and in the last one why it ended: "stop" for an end token, "length". ``cached``: tokens
    of the prompt that an earlier request had computed. ``at``: when it was computed, on the clock of
    ``time.monotonic``, however late an event loop that is held up gets to it.
    """

    text: str
    tokens: int
    ended: str = ""
    cached: int = 0
    at: float = field(default=0.0, compare=False)


class Completions:
    """Requests on their way. ``steps`` grows with every token and every piece of a prompt; ``computed`` with tokens."""

    def __init__(
        self, server: Server, loras: Sequence[Lora] = (), *, slots: int = 0, copies: Copies | None = None
    ) -> None:
        self._server, self._loras, self._gate = server, tuple(loras), Gate()
        self._sharing = Sharing(Seats(slots), copies)
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
        body = {
            "prompt": list(ids),
            "stream": True,
            "cache_prompt": True,
            "return_progress": True,  # a chunk for every batch of a prompt: what a stop can take hold of
            "timings_per_token": True,
            **request_fields(sampling, prompt=len(ids), most=most),
            **lora_fields(scales),
            # The score of each token: where a LoRA makes numbers overflow, llama.cpp picks tokens all the same.
            **({"n_probs": 1} if any(scales) else {}),
        }
        request = _Request(self, self._server, self._sharing, body, scales)
        threading.Thread(target=request.run, name="completion", daemon=True).start()
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

    def __init__(
        self, all_: Completions, server: Server, sharing: Sharing, body: Mapping[str, Any], scales: Scales
    ) -> None:
        self.queue: asyncio.Queue[Chunk | EngineError] = asyncio.Queue()
        self.left = threading.Event()  # nobody listens any more
        self._all, self._server, self._sharing, self._body, self._scales = all_, server, sharing, body, scales
        self._loop = asyncio.get_running_loop()
        self._slot, self._paused = ANY, False
        self._tokens, self._cached = 0, -1
        self._end: Chunk | EngineError = EngineError("engine.computation_ended")

    def run(self) -> None:
        """Put everything into the queue, at last an end or an error. Raises nothing; in a thread of its own, as prompts
        are long, and they are compared.
        """
        try:
            ids = self._body["prompt"]
            self._slot = self._sharing.take(ids, self._scales, read=self._only_read, gone=self.left.is_set)
            while not self.left.is_set():
                if not (self._sharing.give_copy(self._slot, self._only_read) or self._answer()):
                    break
        except Exception as problem:  # noqa: BLE001 - the end of a thread that nobody awaits
            self._end = EngineError("engine.computation_failed", what=str(problem)[:300] or type(problem).__name__)
        finally:
            self._all.forget(self)
            self._sharing.give_back(self._slot)  # not when its reader leaves: llama.cpp may still be at it
            self._put(self._end)  # after that: who asks again at once finds the slot free, with what it has read

    def _answer(self) -> bool:
        """Compute the reply; tell whether it was interrupted before it began."""
        self._paused = False
        self._server.handle_completions({**self._body, "id_slot": self._slot}, self._take)
        return self._paused

    def _only_read(self, slot: int, ids: Sequence[int]) -> bool:
        """Let a slot read a prompt, as ``sharing.Read`` says."""
        ended = False

        def take(data: Any) -> bool:
            nonlocal ended
            with suppress(KeyError, IndexError, TypeError, ValueError):
                self._note(slot, data.get("timings") or {}, most=len(ids))
                ended = ended or bool(data["choices"][0]["finish_reason"])
            return self.left.is_set()

        none = {"prompt": list(ids), "n_predict": 0, "max_tokens": 0, "id_slot": slot}
        self._server.handle_completions({**self._body, **none}, take)
        return ended

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
            self._put(item)
        return self._paused or self.left.is_set()

    def _read(self, data: Any) -> Chunk | EngineError | None:
        if "error" in data:
            return EngineError("engine.computation_failed", what=str(data["error"].get("message"))[:300])
        timings, choice = data.get("timings") or {}, data["choices"][0]
        if _burst(choice):
            return EngineError("engine.not_numbers")
        tokens = max(self._tokens, int(timings.get("predicted_n") or 0))
        text, ended = str(choice["text"] or ""), str(choice["finish_reason"] or "")
        new, self._tokens = tokens - self._tokens, tokens
        wanted = self._note(self._slot, timings, most=len(self._body["prompt"]), new=new, begun=bool(tokens or ended))
        self._paused = wanted
        return Chunk(text, tokens, ended, max(0, self._cached), time.monotonic()) if text or ended else None

    def _note(self, slot: int, timings: Mapping[str, Any], *, most: int, new: int = 0, begun: bool = False) -> bool:
        """Note how far a slot is; tell whether to pause. ``most``: tokens of what it reads; ``new``: of the reply."""
        had = int(timings.get("cache_n") or 0)
        read = min(had + int(timings.get("prompt_n") or 0), most)
        if self._slot != ANY and self._cached < 0:
            self._cached = had  # the first time: later it is what this request has computed itself
        self._all.note(self, read + self._tokens, new)
        return self._sharing.note(slot, read, begun=begun)

    def _put(self, item: Chunk | EngineError) -> None:
        """Hand an item to whoever reads. Any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)


def _burst(choice: Mapping[str, Any]) -> bool:
    """Tell whether a token was picked by scores that are no numbers, where those were asked for."""
    entries = (choice.get("logprobs") or {}).get("content") or ()
    return not all(_is_number(entry.get("logprob")) for entry in entries)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
