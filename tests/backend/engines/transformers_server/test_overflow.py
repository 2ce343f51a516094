"""One request in trouble in a batch: numbers that are none, or memory that runs out, end its reply and no other."""

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace as Namespace
from typing import Any

import pytest
import torch

from backend.dimensions import Dimensions
from backend.engines.transformers_server.batching import BatchedTokens
from backend.engines.transformers_server.shortage import survive
from backend.errors import CriaError
from backend.fit.need import ON_CPU, PAGE, blocks, need_of
from tests.backend.engines.transformers_server.test_batched_kinds import (
    CONTEXT,
    KINDS,
    a_model,
    generated,
    one,
    prompts,
)

NEW = 12
BAD = 7  # a word whose numbers are none
LARGE = 1 << 50  # bytes, more than any machine has
OVERFLOW = "engine.not_numbers"


def a_batch(model: Any, size: Dimensions) -> BatchedTokens:
    taken = blocks(need_of(size, CONTEXT), 3 * CONTEXT // PAGE, ON_CPU)
    return BatchedTokens(model, eos=(), pages=taken, batching=ON_CPU)


def crowd(source: BatchedTokens, many: Sequence[Sequence[int]]) -> list[list[int] | str]:
    """Return replies of one batch: their tokens, or the key of the error that ended one."""

    async def work() -> list[list[int] | BaseException]:
        return await asyncio.gather(*(one(source, ids, NEW) for ids in many), return_exceptions=True)

    said = asyncio.run(asyncio.wait_for(work(), 120))
    assert not any(isinstance(one, BaseException) and not isinstance(one, CriaError) for one in said), said
    return [one.key if isinstance(one, CriaError) else one for one in said]  # type: ignore[misc] # asserted


def good(*lengths: int) -> list[list[int]]:
    return [[token if token != BAD else BAD + 1 for token in ids] for ids in prompts(*lengths)]


def spoil(model: Any) -> None:
    """Make a model overflow at one word."""

    def overflow(_: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        return out.masked_fill((given[0] == BAD)[..., None], torch.inf)

    model.get_input_embeddings().register_forward_hook(overflow)


@pytest.mark.parametrize("kind", ["qwen2", "gemma3", "mistral, windows"])
def test_an_overflow_ends_its_own_reply_and_nobody_elses(kind: str) -> None:
    name, more = KINDS[kind]
    model, size = a_model(name, **more)
    many = good(9, 20, 14)
    wanted = [generated(model, ids, NEW) for ids in many]
    assert not any(BAD in tokens for tokens in wanted)
    spoil(model)
    source = a_batch(model, size)
    asked = [many[0], [*many[1][:8], BAD, *many[1][8:]], *many[1:], [BAD]]
    assert crowd(source, asked) == [wanted[0], OVERFLOW, *wanted[1:], OVERFLOW]
    assert crowd(source, [asked[1], *many]) == [OVERFLOW, *wanted]
    assert source.problem() is None
    source.close()


def test_an_overflow_in_the_first_part_of_a_prompt_is_told_and_its_beginning_is_nobodys_poison() -> None:
    """A prompt of several parts, whose later parts alone have numbers, and a page of it that others begin with too."""
    model, size = a_model("llama")
    shared, rest, other = good(PAGE, 120, 30)
    innocent = [*shared, *other]
    wanted = [generated(model, ids, NEW) for ids in (innocent, other)]
    assert not any(BAD in tokens for tokens in wanted)
    spoil(model)
    source = a_batch(model, size)
    guilty = [*shared, *rest[:20], BAD, *rest[20:]]
    assert crowd(source, [guilty]) == [OVERFLOW]
    assert crowd(source, [innocent, guilty, other]) == [wanted[0], OVERFLOW, wanted[1]]
    source.close()


def test_memory_that_runs_out_ends_the_longest_reply_and_the_others_go_on() -> None:
    model, size = a_model("llama")
    many = good(9, 20, 150, 14)
    wanted = [generated(model, ids, NEW) for ids in many]

    most = 60  # tokens of a prompt in one step

    def want(_: Any, given: Any, step: dict[str, Any]) -> None:
        if step["max_length_q"] > most:
            torch.empty(LARGE, dtype=torch.uint8)

    source = a_batch(model, size)
    hook = model.base_model.register_forward_pre_hook(want, with_kwargs=True)
    assert crowd(source, many) == [*wanted[:2], "starved.wanted", wanted[3]]
    most = 0
    assert crowd(source, many[:1]) == ["starved.wanted"]
    assert source.problem() is None
    hook.remove()
    assert crowd(source, many) == wanted
    used, total = source.cache()
    assert used <= total // 2, "blocks of those who had to begin again are not given back"
    source.close()


def test_what_is_no_lack_of_memory_still_ends_the_computation() -> None:
    model, size = a_model("llama")

    def fail(*_: Any) -> None:
        raise RuntimeError("shape mismatch")

    source = a_batch(model, size)
    model.base_model.register_forward_pre_hook(fail)
    assert crowd(source, good(5)) == ["engine.computation_failed"]
    end = time.monotonic() + 60  # the reply hears of it before the thread has come to its end
    while source.problem() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert source.problem() is not None
    source.close()


def test_when_all_that_filled_the_cache_have_ended_new_requests_are_taken_again() -> None:
    """The library opens the door only when a reply ends by itself."""
    manager, scheduler = Namespace(), Namespace(active_requests={}, block_new_requests=True)
    manager._generation_loop_body = lambda processor, _: processor.scheduler.block_new_requests
    survive(manager)
    assert manager._generation_loop_body(Namespace(scheduler=scheduler), False) is False
    scheduler.active_requests, scheduler.block_new_requests = {"one": object()}, True
    assert manager._generation_loop_body(Namespace(scheduler=scheduler), False) is True
