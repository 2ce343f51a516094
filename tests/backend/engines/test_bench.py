"""Measuring: what is asked, what comes out of it, and the table."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace

import pytest

from backend.cli.bench import Report, table
from backend.cli.draw import width
from backend.engines import bench
from backend.engines.base import ChatMessage, EngineState, EngineStatus, Finish, Piece, Sampling, Usage
from backend.engines.bench import Burst, covered, measure
from backend.text import LANGUAGES


class Engine:
    """Says ``length`` tokens: by its own clock the first after a second and each more after ``each_s`` seconds.

    Remembers what it was asked and how many at once.
    """

    def __init__(self, length: int, *, each_s: float = 0.1) -> None:
        self.length, self.each_s, self.active, self.most = length, each_s, 0, 0
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
        yield Piece("", length, Finish.LENGTH, Usage(prompt, length, 1.0, (length - 1) * self.each_s))


def test_so_many_at_once_each_with_a_prompt_of_its_own() -> None:
    engine = Engine(1000)
    burst = measure(engine, 0, 4)
    assert engine.most == 4
    long = [text for text, sampling in engine.asked if sampling.max_new_tokens == 1]
    assert len(long) == 4
    assert len({text.split()[0] for text in long}) == 4
    assert burst.prompt_tokens == sum(len(text.split()) for text in long) > 4 * bench.PROMPT_WORDS
    assert burst.new_tokens == 4 * bench.NEW_TOKENS
    assert burst.decode_tokens_per_s == pytest.approx(40, rel=0.1)  # of all, by the engine's clock and not ours
    assert burst.first_token_s == pytest.approx(1.0, abs=0.5)
    assert burst.prefill_tokens_per_s == pytest.approx(burst.prompt_tokens / burst.first_token_s)


def test_a_small_context_gets_a_short_prompt_and_an_early_end_another_question() -> None:
    engine = Engine(10)
    burst = measure(engine, 512, 1)
    assert burst.prompt_tokens < 100
    assert burst.new_tokens == 70
    at_once = measure(Engine(1), 512, 1)
    assert (at_once.new_tokens, at_once.decode_tokens_per_s) == (bench._MOST_ASKED, None)


def test_a_fast_model_is_asked_for_more_until_the_time_is_long_enough_or_has_none() -> None:
    engine = Engine(5000, each_s=0.001)
    assert measure(engine, 0, 1).new_tokens == 64 + 128 + 256 + 512 + 1024
    assert measure(Engine(100, each_s=1e-5), 0, 1).decode_tokens_per_s is None


def test_time_counts_once_however_many_answer_and_not_at_all_between_replies() -> None:
    assert covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.7)]) == pytest.approx(4.0)
    assert covered([]) == 0


REPORT = Report("m", "llamacpp", 8, 4096, 2.5, 10**9, 0, (Burst(1, 400, 50.0, 64, 8.0, 8.0),), 20e9, 2e9)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_table_and_the_bound(language: str) -> None:
    lines = table(REPORT, EngineStatus(EngineState.READY, "m"), language)
    assert "bench." not in "".join(lines)
    assert lines[2].count("token") >= 3  # every speed has its unit
    assert len({width(line) for line in lines[2:4]}) == 1
    assert "10.0" in lines[-2]
    assert "80%" in lines[-1]
    assert [cell for cell in lines[3].split() if cell != "s"] == ["1", "50.0", "8.0", "8.0", "8.00"]


def test_no_share_of_a_bound_that_does_not_hold_or_of_no_speed() -> None:
    for rate, last, cells in ((262.0, "processor's cache", ["262.0", "262.0"]), (None, "allows 10.0", ["-", "-"])):
        burst = replace(REPORT.bursts[0], decode_tokens_per_s=rate)
        lines = table(replace(REPORT, bursts=(burst,)), EngineStatus(EngineState.READY, "m"), "en")
        assert last in lines[-1]
        assert "%" not in "".join(lines)
        assert lines[3].split()[2:4] == cells
        assert any("too short to measure" in line for line in lines) is (rate is None)


def test_what_is_not_known_is_not_said() -> None:
    report = Report("m", "remote", 16, 0, 1.0, 1, 5, ())
    assert report.bound is None
    lines = table(report, EngineStatus(), "en")
    assert "GPU memory" in lines[2]
    assert "not known" in lines[-1]
    assert json.loads(json.dumps(asdict(report)))["bandwidth"] is None
