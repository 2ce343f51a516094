"""What llama.cpp has computed of a prompt is not computed again: by its own count of what it read and what it had."""

import asyncio
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

import pytest

from backend.engines.base import ChatMessage, Sampling
from backend.engines.llamacpp_server.completions import Completions
from backend.engines.llamacpp_server.generator import LlamaGenerator
from backend.engines.llamacpp_server.serving import Server

GREEDY = Sampling(temperature=0.0, max_new_tokens=12)
SYSTEM = ChatMessage("system", "You answer in one short sentence, in the language of the question, and never guess.")


class Listener:
    """llama.cpp's server; notes of the last request how many tokens of the prompt it had and how many it computed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.had = self.computed = -1

    def handle_completions(self, request: Mapping[str, Any], callback: Callable[[Any], bool], /) -> None:
        def listen(data: Any) -> bool:
            timings = data.get("timings") or {}
            if "cache_n" in timings:
                self.had, self.computed = timings["cache_n"], timings["prompt_n"]
            return callback(data)

        self._server.handle_completions(request, listen)


@pytest.fixture
def heard(llama: LlamaGenerator) -> tuple[LlamaGenerator, Listener]:
    listener = Listener(llama._completions._server)
    generator = LlamaGenerator(
        llama._tokenizer, Completions(listener, slots=llama.slots), stops=(), context=llama.context, slots=llama.slots,
        placement=llama.placement, note=None,
    )  # fmt: skip
    return generator, listener


def ask(generator: LlamaGenerator, *messages: ChatMessage) -> tuple[tuple[int, ...], str]:
    """Return the prompt's tokens and the reply."""
    prompt = generator.prepare(messages, GREEDY)

    async def collect() -> str:
        return "".join([step.text async for step in generator.generate(prompt, GREEDY)])

    return prompt.ids, asyncio.run(collect())


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def test_a_second_turn_computes_only_what_is_new(heard: tuple[LlamaGenerator, Listener]) -> None:
    generator, listener = heard
    begin = (SYSTEM, ChatMessage("user", "What is a delta, and why would anybody publish one?"))
    first, text = ask(generator, *begin)
    second, _ = ask(generator, *begin, ChatMessage("assistant", text), ChatMessage("user", "And a shard?"))
    assert shared(first, second) >= len(first) - 1
    assert listener.had >= len(first) - 1
    assert listener.had + listener.computed == len(second)


def test_a_system_prompt_is_computed_once_for_two_people(heard: tuple[LlamaGenerator, Listener]) -> None:
    generator, listener = heard
    first, _ = ask(generator, SYSTEM, ChatMessage("user", "How do I merge?"))
    other, _ = ask(generator, SYSTEM, ChatMessage("user", "Hello!"))
    assert shared(first, other) > 20
    assert listener.had >= shared(first, other)
    assert listener.had + listener.computed == len(other)


def test_two_people_do_not_throw_each_others_conversation_away(heard: tuple[LlamaGenerator, Listener]) -> None:
    generator, listener = heard
    assert generator.slots > 1
    long = (SYSTEM, ChatMessage("user", "What is a delta, and why would anybody publish one? " * 6))
    first, text = ask(generator, *long)
    ask(generator, SYSTEM, ChatMessage("user", "Hello!"))
    again, _ = ask(generator, *long, ChatMessage("assistant", text), ChatMessage("user", "And a shard?"))
    assert listener.had >= shared(first, again) >= len(first) - 1
