"""From tokens to steps, with a scripted source of tokens: reasons to end, stop strings, templates. No torch here."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace

import pytest

from backend.engines.base import ChatMessage, Finish, Sampling
from backend.engines.generator import Prompt, Step
from backend.engines.transformers_server.text_generator import TextGenerator
from backend.engines.transformers_server.tokens import Reused, nobody
from backend.errors import ContextFull, EngineError
from backend.text import Message
from tests.backend.engines import tiny

TOKENIZER = tiny.tokenizer()
END = 2


class Script:
    """A source that gives out fixed tokens, a few at a time, and knows whether it was closed."""

    slots = 1

    def __init__(self, ids: Sequence[int], *, at_once: int = 1) -> None:
        self.ids, self.at_once, self.given, self.closed = list(ids), at_once, 0, False

    async def stream(
        self, ids: Sequence[int], sampling: Sampling, limit: int, reused: Reused = nobody
    ) -> AsyncIterator[Sequence[int]]:
        reused(2)
        try:
            for start in range(0, min(limit, len(self.ids)), self.at_once):
                part = self.ids[start : min(start + self.at_once, limit)]
                self.given += len(part)
                yield part
        finally:
            self.closed = True


def tokenizer(template: object = None) -> SimpleNamespace:
    class Tokenizer(SimpleNamespace):
        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": TOKENIZER.encode(text).ids}

    def apply(turns: list[dict[str, str]], **_: object) -> str:
        if isinstance(template, Exception):
            raise template
        return " ".join(turn["content"] for turn in turns)

    return Tokenizer(
        chat_template=template,
        apply_chat_template=apply,
        decode=lambda ids, **_: TOKENIZER.decode(list(ids), skip_special_tokens=True),
    )


def generator(
    source: Script, *, stops: Sequence[str] = (), context: int = 100, template: object = "x"
) -> TextGenerator:
    return TextGenerator(
        tokenizer(template),
        source,  # type: ignore[arg-type]
        eos=(END,),
        stops=stops,
        context=context,
        placement=Message("engine.placement.cpu"),
        note=None,
    )


def run(made: TextGenerator, *, prompt: int = 10, most: int = 50) -> list[Step]:
    async def collect() -> list[Step]:
        return [step async for step in made.generate(Prompt(prompt, (1,) * prompt), Sampling(max_new_tokens=most))]

    return asyncio.run(collect())


def text(steps: Sequence[Step]) -> str:
    return "".join(step.text for step in steps)


HELLO = TOKENIZER.encode("hello 龘 hello").ids


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_the_end_token_ends_it(at_once: int) -> None:
    source = Script([*HELLO, END, *HELLO], at_once=at_once)
    steps = run(generator(source))
    assert text(steps) == "hello 龘 hello"
    assert (steps[-1].finish, steps[-1].tokens, steps[-1].cached_tokens) == (Finish.STOP, len(HELLO) + 1, 2)
    assert [step.finish for step in steps[:-1]] == [None] * (len(steps) - 1)
    assert source.closed


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_stop_string_ends_it_and_the_source(at_once: int) -> None:
    source = Script(TOKENIZER.encode("yes<|x hello hello hello").ids, at_once=at_once)
    steps = run(generator(source, stops=["<|x"]))
    assert text(steps) == "yes"
    assert steps[-1].finish is Finish.STOP
    assert source.closed
    assert source.given < len(source.ids)


def test_a_stop_string_in_the_very_last_token() -> None:
    ids = TOKENIZER.encode("yes<|").ids
    steps = run(generator(Script(ids), stops=["<|"]), most=len(ids))
    assert (text(steps), steps[-1].finish) == ("yes", Finish.STOP)


def test_half_a_stop_string_at_the_end_is_text() -> None:
    ids = TOKENIZER.encode("yes<").ids
    steps = run(generator(Script(ids), stops=["<|"]), most=len(ids))
    assert (text(steps), steps[-1].finish) == ("yes<", Finish.LENGTH)


def test_the_token_limit_and_the_context_are_told_apart() -> None:
    assert run(generator(Script(HELLO * 20)), most=7)[-1] == Step("", 7, Finish.LENGTH, cached_tokens=2)
    last = run(generator(Script(HELLO * 20)), prompt=90, most=50)[-1]
    assert (last.tokens, last.finish) == (10, Finish.CONTEXT)


def test_leaving_closes_the_source() -> None:
    source = Script(HELLO * 20)

    async def leave() -> None:
        steps = generator(source).generate(Prompt(1, (1,)), Sampling())
        await anext(steps)
        await steps.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert source.closed
    assert source.given == 1


def test_a_conversation_becomes_tokens() -> None:
    messages = [ChatMessage("user", "hello"), ChatMessage("assistant", "hello"), ChatMessage("user", "a")]
    with_template = generator(Script([])).prepare(messages, Sampling())
    assert with_template.ids == tuple(TOKENIZER.encode("hello hello a").ids)
    assert with_template.tokens == len(with_template.ids)
    plain = generator(Script([]), template=None).prepare(messages, Sampling())
    assert plain.ids == tuple(TOKENIZER.encode("hello\nhello\na").ids)


def test_a_full_context_names_its_numbers() -> None:
    with pytest.raises(ContextFull) as caught:
        generator(Script([]), context=20).prepare([ChatMessage("user", "a b c d e f g h")], Sampling())
    assert caught.value.params["prompt"] == 15
    assert caught.value.params["room"] == 5
    assert "15" in str(caught.value)


def test_a_short_answer_may_use_the_last_room() -> None:
    made = generator(Script([]), context=20)
    assert made.prepare([ChatMessage("user", "a b c d e f g h")], Sampling(max_new_tokens=3)).tokens == 15


def test_a_template_that_throws_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="only user turns"):
        generator(Script([]), template=ValueError("only user turns")).prepare([ChatMessage("user", "x")], Sampling())
