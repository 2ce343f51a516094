"""One request after the other: slow is told from hung, leaving ends a prompt, and nothing is computed twice."""

import asyncio
from typing import Any

import pytest
import torch

from backend.engines.base import Sampling
from backend.engines.transformers_server.batching import BatchedTokens
from backend.engines.transformers_server.one_at_a_time import SingleTokens
from backend.engines.transformers_server.tokens import TokenSource
from backend.errors import EngineError
from backend.fit.need import ON_CPU
from tests.backend.engines.transformers_server.test_batched_kinds import GREEDY, NEW, a_model, generated, one, prompts

LAYERS = 4


class Read:
    """Counts the tokens that a model is given to compute."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, _: Any, given: tuple[torch.Tensor, ...], __: Any) -> None:
        self.tokens += given[0].shape[-1]

    def since(self) -> int:
        """Return how many there were since this was asked last."""
        found, self.tokens = self.tokens, 0
        return found


def reused(source: TokenSource, ids: list[int], count: int = NEW) -> tuple[list[int], int]:
    """Return a reply, and how many tokens of the prompt were there already."""
    told = [0]

    async def collect() -> list[int]:
        return [token async for part in source.stream(ids, GREEDY, count, told.append) for token in part]

    return asyncio.run(asyncio.wait_for(collect(), 120)), told[-1]


def test_every_layer_of_a_prompt_is_a_step() -> None:
    model, _ = a_model("qwen2")
    source = SingleTokens(model, eos=())
    asyncio.run(one(source, prompts(100)[0], 1))
    assert (source.computed(), source.steps()) == (1, LAYERS + 1)


def test_leaving_ends_a_prompt_within_a_layer() -> None:
    model, _ = a_model("qwen2")
    source = SingleTokens(model, eos=())
    seen: list[int] = []

    async def leave() -> None:
        stream = source.stream(prompts(50)[0], GREEDY, 5)
        waiting = asyncio.ensure_future(anext(stream))
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def hold(*_: object) -> None:
            seen.append(1)
            if len(seen) == 2:  # in the second layer: let the reader go before the third begins
                loop.call_soon_threadsafe(begun.set)
                asyncio.run_coroutine_threadsafe(_gone(), loop).result(20)

        async def _gone() -> None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await stream.aclose()

        for layer in model.model.layers:
            layer.register_forward_pre_hook(hold)
        await asyncio.wait_for(begun.wait(), 20)
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(asyncio.wait_for(leave(), 60))
    assert asyncio.run(one(source, [5, 6], 1))  # the next one is answered
    assert len(seen) == 2 + LAYERS


def test_a_conversation_that_goes_on_is_not_computed_again() -> None:
    model, _ = a_model("qwen2")
    first, more, other = prompts(60, 10, 30)
    reply = generated(model, first)
    goes_on = [*first, *reply, *more]
    wanted, elsewhere = generated(model, goes_on), generated(model, other)
    source, read = SingleTokens(model, eos=(), keeps=True), Read(model)
    assert reused(source, first) == (reply, 0)
    read.since()
    # The last token of a reply was chosen and never computed with.
    assert reused(source, goes_on) == (wanted, len(first) + NEW - 1)
    assert read.since() == len(more) + 1 + NEW - 1
    assert reused(source, goes_on) == (wanted, len(goes_on) - 1)  # asked again
    assert reused(source, other) == (elsewhere, 0)
    assert reused(source, [*other[:20], 9]) == (generated(model, [*other[:20], 9]), 20)


def test_what_windows_have_let_go_of_is_computed_again() -> None:
    model, _ = a_model("gemma3_text", sliding_window=24, query_pre_attn_scalar=8)
    first = prompts(60)[0]
    source = SingleTokens(model, eos=(), keeps=True)
    reused(source, first)
    other = [*first[:30], 7, 8]
    assert reused(source, other) == (generated(model, other), 0)


def test_adapters_of_another_strength_find_nothing() -> None:
    from backend.engines.transformers_server.kept import KeptConversation

    model, _ = a_model("qwen2")
    kept = KeptConversation(model.config)
    _, cache = kept.take([1, 2, 3], (1.0,))
    model(torch.tensor([[1, 2, 3]]), past_key_values=cache)
    kept.keep([1, 2, 3, 4], (1.0,), cache)
    assert kept.take([1, 2, 3, 4], (0.5,))[0] == 0
    kept.keep([1, 2, 3, 4], (1.0,), cache)
    assert kept.take([1, 2, 3, 4], (1.0,))[0] == 3


@pytest.mark.parametrize("sampling", [GREEDY, Sampling()], ids=["greedy", "by lot"])
def test_scores_that_are_no_numbers_end_a_reply(sampling: Sampling) -> None:
    model, _ = a_model("qwen2")
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = float("nan")
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.nan_to_num())
    source = SingleTokens(model, eos=())

    async def ask(ids: list[int]) -> None:
        async for _ in source.stream(ids, sampling, 2):
            pass

    asyncio.run(ask([5, 6]))
    with pytest.raises(EngineError) as caught:
        asyncio.run(ask([5, 7]))
    assert caught.value.key == "engine.not_numbers"


def test_batches_do_not_compute_a_shared_beginning_twice() -> None:
    model, _ = a_model("qwen2")
    system, first, second = prompts(130, 5, 6)
    wanted = generated(model, [*system, *second])
    source = BatchedTokens(model, eos=(), pages=20, batching=ON_CPU)
    read = Read(model)
    try:
        assert reused(source, [*system, *first])[1] == 0
        read.since()
        # Whole pages of 64 are shared: two of them lie in the 130 tokens of the beginning.
        assert reused(source, [*system, *second]) == (wanted, 128)
        assert read.since() == 2 + len(second) + NEW - 1
    finally:
        source.close()
