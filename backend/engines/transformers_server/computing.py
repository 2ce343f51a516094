"""How a loaded model computes: several requests in batches, or one at a time; proved by a first token.

What batching refuses, or fails at, is computed by ordinary ``generate``: slower for several people, and it answers.
Knows nothing about files, text or how weights were read.
"""

import asyncio
import traceback
from collections.abc import Sequence
from typing import Any

import torch

from backend.engines.base import Sampling
from backend.engines.transformers_server.adapters import Batch
from backend.engines.transformers_server.batching import BatchedTokens, Refused
from backend.engines.transformers_server.one_at_a_time import SingleTokens
from backend.engines.transformers_server.placement import Need, Placement
from backend.engines.transformers_server.tokens import TokenSource
from backend.errors import CriaError, EngineError
from backend.fit.need import blocks, pages

_FIRST = Sampling(temperature=0.0)
_NO_NUMBERS = "engine.not_numbers"


def token_source(
    model: Any,
    need: Need,
    placement: Placement,
    *,
    eos: Sequence[int],
    bos: int,
    start: int | None,
    adapters: Batch | None = None,
    keeps: bool = False,
) -> TokenSource:
    """Return what computes tokens, after it has computed one. ``start`` and ``keeps``: see ``SingleTokens``.

    Raises:
        MachineError: there is no room for the cache, or memory ran out at the first token.
        EngineError: not even one token could be computed, or it was not a number.
    """
    if placement.device == "cuda":  # the library asks for streams and free memory of the current one
        torch.cuda.set_device(placement.gpus[0])
    if placement.batching.chunk:
        try:
            source = _batched(model, need, placement, eos=eos, adapters=adapters)
            asyncio.run(_first_token(source, bos))
            return source
        except Refused:
            traceback.print_exc()  # for the log; the note says what it means
    single = SingleTokens(model, eos=eos, start=start, adapters=adapters, keeps=keeps)
    asyncio.run(_first_token(single, bos))
    return single


def _batched(
    model: Any, need: Need, placement: Placement, *, eos: Sequence[int], adapters: Batch | None
) -> BatchedTokens:
    batching = placement.batching
    per_token = need.token(placement.dtype, batching)
    taken = pages(placement.context, placement.cache_room, per_token, conversations=batching.conversations)
    room = blocks(need, taken, batching)
    return BatchedTokens(model, eos=eos, pages=room, batching=batching, adapters=adapters)


async def _first_token(source: TokenSource, token: int) -> None:
    """Compute one token, so that what cannot compute fails here and not in somebody's first reply."""
    try:
        async for _ in source.stream([token], _FIRST, 1):
            pass
    except CriaError as problem:
        source.close()
        # A batch that fails for want of memory, or at weights that are no numbers, fails alone as well.
        if isinstance(source, BatchedTokens) and isinstance(problem, EngineError) and problem.key != _NO_NUMBERS:
            raise Refused(str(problem)) from problem
        raise
