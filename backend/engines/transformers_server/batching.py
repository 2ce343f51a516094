"""Tokens for several requests at once, through transformers' continuous batching.

Requests join and leave the running batch at any step; the cache is bounded in tokens, and a prompt is computed in
chunks so that nobody's reply stands still while another's long prompt is read. Knows nothing about text.
"""

import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import GenerationOutput

from backend.engines.adapters import Scales
from backend.engines.base import Sampling
from backend.engines.memory import computation_failed
from backend.engines.transformers_server.adapter_batches import Processors, keep_apart
from backend.engines.transformers_server.adapters import Batch
from backend.engines.transformers_server.overflow import OverflowGuard
from backend.engines.transformers_server.sampling import PerRequestSampling
from backend.engines.transformers_server.shortage import survive
from backend.engines.transformers_server.tokens import Mailbox, Reused, nobody
from backend.errors import CriaError, EngineError, MachineError
from backend.fit.need import PAGE, Batching


class Refused(Exception):
    """Continuous batching does not compute this model; ordinary ``generate`` may."""


@dataclass
class _Open:
    """A request on its way: where its tokens go, how many of them went, whom to tell what was there already, and how
    strong its adapters are.
    """

    mailbox: Mailbox
    reused: Reused
    scales: Scales | None = None
    sent: int = 0


class _Router(OutputRouter):  # type: ignore[misc] # transformers is untyped
    """Delivers outputs to the requests that are still open and drops the rest; the library's own would keep them."""

    def __init__(self, deliver: Callable[[GenerationOutput], None]) -> None:
        super().__init__()
        self._deliver = deliver

    def deliver(self, output: GenerationOutput) -> None:
        self._deliver(output)

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            self._deliver(output)


class BatchedTokens:
    """``TokenSource`` over one ``ContinuousBatchingManager``."""

    def __init__(
        self, model: Any, *, eos: Sequence[int], pages: int, batching: Batching, adapters: Batch | None = None
    ) -> None:
        """``pages``: of all layers, see ``backend.fit.need.blocks``.

        Raises:
            MachineError: there is no room for them.
            Refused: the library has no cache for such a model.
        """
        self.slots = batching.slots
        self._eos = list(eos) or [-1]
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()
        self._names = count()
        self._computed = 0
        self._sampling = PerRequestSampling()
        self._adapters = adapters
        try:
            self._manager = self._prepared(model, pages, batching)
        except (MemoryError, RuntimeError) as problem:
            raise MachineError("engine.no_room_cache", tokens=pages * PAGE, what=str(problem)[:300]) from problem
        except ValueError as problem:  # layers of a kind that the library has no cache for
            raise Refused(str(problem)) from problem
        processor = self._manager.batch_processor
        cache, steps = processor.cache, processor.inputs_and_outputs
        self._guard = OverflowGuard(model, cache, lambda: steps.requests_in_batch, self._refuse)
        if adapters is not None:
            keep_apart(cache, self._scales_of)
        self._count_shared(cache)
        self._manager.start()

    def _prepared(self, model: Any, pages: int, batching: Batching) -> Any:
        """Return the library's manager with its cache taken, so that a lack of memory is said while loading."""
        manager = model.init_continuous_batching(
            GenerationConfig(do_sample=True, eos_token_id=self._eos, temperature=None, top_k=None, top_p=None),
            ContinuousBatchingConfig(
                page_size=PAGE,
                num_blocks=pages,
                max_batch_tokens=batching.chunk,
                max_requests_per_batch=batching.slots,
                max_memory_percent=1.0,
                # The sampling looks requests up in the computing thread, between two steps.
                use_async_batching=False,
                use_cuda_graph=False,
                auto_switch_to_flash=False,
            ),
        )
        processors = Processors(LogitsProcessorList([self._sampling]), self._adapters)
        processors.tensors_required = 1  # one row of arguments for our one processor
        manager.logit_processor = processors
        manager.output_router = _Router(self._deliver)
        manager.warmup()
        survive(manager)
        return manager

    def _count_shared(self, cache: Any) -> None:
        """Tell each request how many tokens of its prompt were computed for another one before."""
        search = cache.search_prefix_match

        def searched(name: str, ids: list[int]) -> int:
            found: int = search(name, ids)
            with self._lock:
                request = self._open.get(name)
            if request and not request.sent:  # later: a request that had to make room is computed again
                request.reused(found)
            return found

        cache.search_prefix_match = searched

    def _scales_of(self, name: str) -> Scales | None:
        with self._lock:
            request = self._open.get(name)
        return request.scales if request else None

    async def stream(
        self, ids: Sequence[int], sampling: Sampling, limit: int, reused: Reused = nobody
    ) -> AsyncIterator[Sequence[int]]:
        """Yield new tokens as they are computed; closing cancels the request before the next step."""
        scales = self._adapters.scales(sampling) if self._adapters else ()
        name, request = f"r{next(self._names)}", _Open(Mailbox(), reused, scales)
        with self._lock:
            self._open[name] = request
        ended = False
        try:
            accepted = self._manager.add_request(
                list(ids), name, max_new_tokens=limit, streaming=True, eos_token_id=self._eos, sampling=sampling
            )
            if accepted is None:
                raise self.problem() or EngineError("engine.not_ready")
            while (tokens := await request.mailbox.get()) is not None:
                yield tokens
            ended = True
        finally:
            with self._lock:
                self._open.pop(name, None)
            if not ended:
                self._manager.cancel_request(name)

    def _deliver(self, output: GenerationOutput) -> None:
        """Hand new tokens to whoever waits for them. Runs in the generation thread."""
        self._computed += 1
        with self._lock:
            request = self._open.get(output.request_id)
        if request is None:
            return
        if output.request_id in self._sampling.broken:
            request.mailbox.put(EngineError("engine.not_numbers"))
            return
        if output.error is not None:
            request.mailbox.put(computation_failed(output.error))
            return
        new = output.generated_tokens[request.sent :]
        request.sent += len(new)
        request.mailbox.put(new)
        if output.is_finished():
            request.mailbox.put(None)

    def _refuse(self, names: Iterable[str]) -> None:
        """End replies whose numbers are none, be it in the midst of a prompt. Runs in the generation thread."""
        for name in names:
            self._sampling.broken.add(name)
            self._manager.cancel_request(name)  # before the next step, which would have to be computed twice as well
            with self._lock:
                request = self._open.get(name)
            if request is not None:
                request.mailbox.put(EngineError("engine.not_numbers"))

    def computed(self) -> int:
        """Return how many tokens were computed since the start."""
        return self._computed

    def steps(self) -> int:
        """Return how many steps were computed since the start."""
        return self._sampling.steps

    def cache(self) -> tuple[int, int]:
        """Return (used, total) tokens of cache."""
        processor = self._manager.batch_processor
        if processor is None:
            return 0, 0
        total = processor.cache.num_blocks * PAGE
        return round(total * (1 - processor.cache.compute_free_capacity())), total

    def problem(self) -> CriaError | None:
        """Return why the generation thread ended, if it did."""
        fatal = self._manager.background_thread_status.fatal_error
        if fatal is not None:
            return computation_failed(fatal)
        return None if self._manager.is_running() else EngineError("engine.computation_ended")

    def close(self) -> None:
        """Stop at once."""
        self._guard.close()
        if self._manager.is_running():
            self._manager.stop(block=True, timeout=2.0, hard_stop=True)
