"""Memory that runs out while a batch is computed ends one reply, the longest; the others are computed on.

Such a step has spoiled nothing but the cache of those who took part in it. So they are queued again with what they have
said so far as part of their prompts, as the library itself does with a request that has to make room (see its
``OffloadingManager``). Each shortage ends a reply, so this comes to an end. Knows nothing about text.
"""

import gc
from typing import Any

import torch
from transformers.generation.continuous_batching.requests import RequestState

from backend.engines.memory import is_out_of_memory


def survive(manager: Any) -> None:
    """Make a ``ContinuousBatchingManager`` that has yet to start go on where memory runs out, and take new requests
    again once all that filled the cache were ended. Whatever else goes wrong ends it, as without this.
    """
    compute = manager._generation_loop_body

    def computed(processor: Any, bootstrapping: bool) -> bool:
        if not processor.scheduler.active_requests:
            # A full cache shuts the door until somebody's reply has ended; nobody is left whose reply could.
            processor.scheduler.block_new_requests = False
        try:
            goes_on: bool = compute(processor, bootstrapping)
        except (MemoryError, RuntimeError) as problem:
            if not is_out_of_memory(problem) or not processor.scheduler.active_requests:
                raise
            said = MemoryError(str(problem) or "out of memory")  # the exception itself holds what the step had made
        else:
            return goes_on
        _give_back()
        _make_room(processor, said)
        return True

    manager._generation_loop_body = computed


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _make_room(processor: Any, problem: MemoryError) -> None:
    """End the longest of the active requests, and let the others begin again."""
    scheduler = processor.scheduler
    states: list[RequestState] = list(scheduler.active_requests.values())
    longest = max(states, key=lambda state: len(state.initial_tokens) + len(state.generated_tokens))
    for state in states:
        processor.cache.free_blocks(state.request_id, no_cache=True)  # what is in them may be half a step
        if state is longest:
            processor._handle_request_error(problem, state)
            scheduler.finish_request(state.request_id)
        else:
            scheduler.finish_request(state.request_id)
            scheduler.add_waiting_request(state.create_equivalent_initial_request())
