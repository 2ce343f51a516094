"""Measuring: what is asked, what comes out of it, and the table."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict

import pytest

from backend.cli.bench import Report, table
from backend.engines import bench
from backend.engines.base import ChatMessage, EngineState, EngineStatus, Finish, Piece, Sampling, Usage
from backend.engines.bench import Burst, measure
from backend.text import LANGUAGES


class Engine:
    """Says ``length`` tokens; remembers what it was asked and how many at once."""

    def __init__(self, length: int) -> None:
        self.length, self.active, self.most = length, 0, 0
        self.asked: list[tuple[str, Sampling]] = []

    def status(self) -> EngineStatus:
        return EngineStatus(EngineState.READY, "toy")

    async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
        self.asked.append((messages[0].content, sampling))
        self.active += 1
        self.most = max(self.most, self.active)
        length = min(self.length, sampling.max_new_tokens)
        for number in range(1, length + 1):
            await asyncio.sleep(0)
            yield Piece("x", number)
        self.active -= 1
        prompt = len(messages[0].content.split())
        yield Piece("", length, Finish.LENGTH, Usage(prompt, length))


def test_so_many_at_once_each_with_a_prompt_of_its_own() -> None:
    engine = Engine(1000)
    burst = measure(engine, 0, 4)
    assert engine.most == 4
    long = [text for text, sampling in engine.asked if sampling.max_new_tokens == 1]
    assert len(long) == 4
    assert len({text.split()[0] for text in long}) == 4
    assert burst.prompt_tokens == sum(len(text.split()) for text in long) > 4 * bench.PROMPT_WORDS
    assert burst.new_tokens == 4 * bench.NEW_TOKENS
    assert burst.decode_tokens_per_s > 0
    assert burst.prefill_tokens_per_s == pytest.approx(burst.prompt_tokens / burst.first_token_s)


def test_a_small_context_gets_a_short_prompt_and_an_early_end_another_question() -> None:
    engine = Engine(10)
    burst = measure(engine, 512, 1)
    assert burst.prompt_tokens < 100
    assert burst.new_tokens == 70
    assert measure(Engine(1), 512, 1).new_tokens == bench._MOST_ASKED


REPORT = Report("m", "llamacpp", 8, 4096, 2.5, 10**9, 0, (Burst(1, 400, 50.0, 64, 8.0, 8.0),), 20e9, 2e9)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_table_and_the_bound(language: str) -> None:
    lines = table(REPORT, EngineStatus(EngineState.READY, "m"), language)
    assert "bench." not in "".join(lines)
    assert "10.0" in lines[-1]
    assert "80%" in lines[-1]
    assert [cell for cell in lines[3].split() if cell != "s"] == ["1", "50.0", "8.0", "8.0", "8.00"]


def test_what_is_not_known_is_not_said() -> None:
    report = Report("m", "remote", 16, 0, 1.0, 1, 5, ())
    assert report.bound is None
    lines = table(report, EngineStatus(), "en")
    assert "GPU memory" in lines[2]
    assert "not known" in lines[-1]
    assert json.loads(json.dumps(asdict(report)))["bandwidth"] is None
