"""People with one system prompt at the same moment: it is computed once, copied, and everybody's answer is their own.

Counted by llama.cpp's own figures. The one who came first is held until the others have come, so that no machine is
too fast or too busy for that.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from backend.engines.base import ChatMessage, Sampling
from backend.engines.generator import Prompt, Step
from backend.engines.llamacpp_server.completions import Completions
from backend.engines.llamacpp_server.copies import Copies
from backend.engines.llamacpp_server.generator import LlamaGenerator
from backend.engines.llamacpp_server.seats import shared
from backend.engines.llamacpp_server.serving import Door, Server

GREEDY = Sampling(temperature=0.0, max_new_tokens=12)
QUESTIONS = ("Hello!", "How do I merge?", "What is a delta?", "And a shard?")
PATIENCE_S = 60.0


@dataclass
class Call:
    """What llama.cpp told of one request: tokens of the prompt, those it had, and those it computed."""

    slot: int
    tokens: int
    had: int = -1
    computed: int = 0
    ended: bool = False


class Counting:
    """llama.cpp's server; notes every call, and lets the first one go on only when ``held`` is over."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.calls: list[Call] = []
        self.held: Callable[[], bool] | None = None

    def handle_completions(self, request: Mapping[str, Any], callback: Callable[[Any], bool], /) -> None:
        call = Call(request["id_slot"], len(request["prompt"]))
        self.calls.append(call)

        def listen(data: Any) -> bool:
            timings = data.get("timings") or {}
            if "cache_n" in timings:
                call.had, call.computed = timings["cache_n"], timings["prompt_n"]
            call.ended = bool(data["choices"][0]["finish_reason"])
            if call is self.calls[0] and self.held is not None:
                until, held, self.held = time.monotonic() + PATIENCE_S, self.held, None
                while held() and time.monotonic() < until:
                    time.sleep(0.002)
            return callback(data)

        self._server.handle_completions(request, listen)

    def computed(self) -> int:
        """Return the tokens of prompts that were computed; an interrupted call left to the next one what it had."""
        total = 0
        for number, call in enumerate(self.calls):
            later = (one for one in self.calls[number + 1 :] if one.slot == call.slot)
            total += call.computed if call.ended else max(0, next(later).had - call.had)
        return total


class Scene:
    """A generator of its own over the llama.cpp of all tests here, with copies of its own."""

    def __init__(self, llama: LlamaGenerator, copies: Copies | None) -> None:
        inner = llama._completions
        self.counting = Counting(inner._server)
        self.completions = Completions(self.counting, slots=llama.slots, copies=copies)
        self.generator = LlamaGenerator(
            llama._tokenizer, self.completions, stops=(), context=llama.context, slots=llama.slots,
            placement=llama.placement, note=None,
        )  # fmt: skip

    def hold(self, coming: int) -> None:
        """Let the first one wait for so many, and until one of them wants its beginning."""
        seats = self.completions._sharing._seats

        def is_early() -> bool:
            states = [seats.state(number) for number in range(len(seats))]
            return sum(seat.taken for seat in states) < coming or not any(seat.wanted for seat in states)

        self.counting.calls.clear()
        self.counting.held = is_early

    def prompts(self, system: str, questions: tuple[str, ...] = QUESTIONS) -> list[Prompt]:
        say = ChatMessage("system", system)
        return [self.generator.prepare([say, ChatMessage("user", question)], GREEDY) for question in questions]

    async def one(self, prompt: Prompt) -> tuple[str, Step]:
        """Return a reply, and its last step."""
        steps = [step async for step in self.generator.generate(prompt, GREEDY)]
        return "".join(step.text for step in steps), steps[-1]

    def all_at_once(self, prompts: list[Prompt]) -> list[tuple[str, Step]]:
        self.counting.calls[:] = []

        async def crowd() -> list[tuple[str, Step]]:
            return await asyncio.gather(*(self.one(prompt) for prompt in prompts))

        return asyncio.run(crowd())


def system(word: str) -> str:
    """Return a system prompt of some 400 tokens that no other test has used."""
    return f"{word}: you answer in one short sentence, in the language of the question. " * 20


def copies_of(llama: LlamaGenerator) -> Copies:
    kept = llama._completions._sharing._copies
    assert kept is not None  # as it was loaded
    return Copies(kept._door, per_token=kept._per_token, room=kept._room)


def told(replies: list[tuple[str, Step]]) -> list[str]:
    return [text for text, _ in replies]


def common(prompts: list[Prompt]) -> int:
    return min(shared(one.ids, other.ids) for one in prompts for other in prompts if one is not other)


@pytest.fixture
def scene(llama: LlamaGenerator) -> Scene:
    return Scene(llama, copies_of(llama))


def test_a_new_system_prompt_is_computed_once_for_four_at_the_same_moment(scene: Scene, llama: LlamaGenerator) -> None:
    prompts = scene.prompts(system("Ada"))
    both, beside = common(prompts), max(prompt.tokens for prompt in prompts) - common(prompts)
    assert both > 300
    scene.hold(4)
    replies = scene.all_at_once(prompts)
    assert scene.counting.computed() <= both + 4 * (beside + 2)
    assert sorted(step.cached_tokens >= both for _, step in replies) == [False, True, True, True]

    again = scene.all_at_once([*prompts[1:], *scene.prompts(system("Ada"), ("Who are you?",))])  # now it is known
    assert scene.counting.computed() <= 4 * (beside + 2)
    assert all(step.cached_tokens >= both for _, step in again)
    alone = Scene(llama, None).all_at_once(prompts)
    assert told(replies) == told(alone)
    assert told(again)[:3] == told(alone)[1:]
    assert len(set(told(alone))) > 2


def test_what_an_idle_slot_has_is_copied_and_stays_there(scene: Scene) -> None:
    long = "What is a delta, and why would anybody publish one? " * 12
    first, second = scene.prompts(system("Bob"), (long, "Hello!"))
    both = common([first, second])
    scene.all_at_once([first])
    [(_, last)] = scene.all_at_once([second])
    assert last.cached_tokens >= both - 1
    assert scene.counting.computed() <= second.tokens - both + 2
    [(_, last)] = scene.all_at_once([first])
    assert last.cached_tokens >= first.tokens - 1


def test_who_waits_for_somebody_that_leaves_gets_an_answer(scene: Scene, llama: LlamaGenerator) -> None:
    prompts = scene.prompts(system("Eve"))[:3]
    scene.hold(3)

    async def leaving() -> list[tuple[str, Step]]:
        async with aclosing(scene.generator.generate(prompts[0], GREEDY)) as steps:  # type: ignore[type-var]
            first = asyncio.ensure_future(anext(steps))  # type: ignore[arg-type]
            others = [asyncio.create_task(scene.one(prompt)) for prompt in prompts[1:]]
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait((first,))
        return await asyncio.gather(*others)

    assert told(asyncio.run(leaving())) == told(Scene(llama, None).all_at_once(prompts[1:]))


def test_where_nothing_can_be_copied_everybody_computes(llama: LlamaGenerator) -> None:
    door = Door()
    door.close()
    scene = Scene(llama, Copies(door, per_token=1, room=10**9))
    scene.completions._sharing._copies._fits = lambda _: True  # type: ignore[union-attr,method-assign]
    prompts = scene.prompts(system("Mia"))
    scene.hold(4)
    assert told(scene.all_at_once(prompts)) == told(Scene(llama, None).all_at_once(prompts))
