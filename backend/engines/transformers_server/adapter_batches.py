"""Adapters in continuous batching: whose tokens a step computes, and a cache in which nobody finds another's.

Keys and values that were computed under an adapter are good for that adapter at that strength alone. transformers
recognises a shared beginning by its tokens; here the first of them is replaced, in what is compared and nowhere else,
by a number that stands for the token and the strengths. Knows nothing about text, layers or files.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from backend.engines.adapters import Scales
from backend.engines.base import Sampling
from backend.engines.transformers_server.adapters import Batch, Step

_MOST_KNOWN = 4096  # mixtures of which a beginning is still recognised


class Processors(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc] # transformers is untyped
    """The library's list, which hears of every step before it is computed; it tells the adapters."""

    def __init__(self, processors: LogitsProcessorList, batch: Batch | None) -> None:
        super().__init__(processors)
        self._batch = batch

    def prepare_tensor_args(
        self, requests_in_batch: list[FutureRequestState], arg_storage: torch.Tensor
    ) -> torch.Tensor:
        """Note the strengths of each request's tokens, then do what the library does."""
        batch = self._batch
        if batch is not None:
            mine = [(one, _scales(one.state, batch)) for one in requests_in_batch]
            segments = [(one.query_length, scales) for one, scales in mine]
            batch.step = Step(segments, [scales for one, scales in mine if one.has_new_token])
        made: torch.Tensor = super().prepare_tensor_args(requests_in_batch, arg_storage)
        return made


def _scales(state: RequestState, batch: Batch) -> Scales:
    sampling = state.logit_processor_kwargs.get("sampling")
    return batch.scales(sampling) if isinstance(sampling, Sampling) else (0.0,) * len(batch.loras)


class Beginnings:
    """Numbers that stand for a first token under certain strengths. Used by the generation thread only."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Scales, int], int] = OrderedDict()
        self._next = count(1)

    def marked(self, ids: list[int], scales: Scales | None) -> list[int]:
        """Return ids that are equal only where tokens and strengths are; None stands for strengths like nobody's."""
        if not ids or (scales is not None and not any(scales)):
            return ids
        if scales is None:
            return [-next(self._next), *ids[1:]]
        key = (scales, ids[0])
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = next(self._next)
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return [-number, *ids[1:]]


def keep_apart(cache: Any, scales_of: Callable[[str], Scales | None]) -> None:
    """Make a paged cache share beginnings only between requests of the same strengths."""
    beginnings, search = Beginnings(), cache.search_prefix_match

    def searched(request: str, ids: list[int]) -> Any:
        return search(request, beginnings.marked(ids, scales_of(request)))

    cache.search_prefix_match = searched
    for allocator in cache.cache_allocators.values():
        _note_apart(allocator, beginnings, scales_of)


def _note_apart(allocator: Any, beginnings: Beginnings, scales_of: Callable[[str], Scales | None]) -> None:
    mark = allocator.mark_complete_blocks

    def marked(request: str, ids: list[int], complete: int) -> Any:
        return mark(request, beginnings.marked(ids, scales_of(request)), complete)

    allocator.mark_complete_blocks = marked
