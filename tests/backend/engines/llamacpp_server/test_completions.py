"""Requests to llama.cpp, played by a script: what is passed on, when it stops, what its errors become."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from backend.engines.base import Lora, Sampling
from backend.engines.llamacpp_server.completions import Chunk, Completions
from backend.engines.llamacpp_server.generator import drops_first_space
from backend.engines.llamacpp_server.sampling import request_fields
from backend.errors import EngineError


def said(text: str = "", *, read: int = 5, tokens: int = 0, finish: str | None = None) -> dict[str, Any]:
    timings = {"cache_n": 1, "prompt_n": read - 1, "predicted_n": tokens}
    return {"choices": [{"text": text, "finish_reason": finish}], "timings": timings}


class Script:
    """Says its lines; ``stopped`` once somebody wanted no more."""

    def __init__(self, *lines: Any, endless: bool = False) -> None:
        self.lines, self.endless = lines, endless
        self.stopped = threading.Event()
        self.body: Mapping[str, Any] = {}

    def handle_completions(self, request: Mapping[str, Any], callback: Callable[[Any], bool], /) -> None:
        self.body = request
        for line in self.lines:
            if isinstance(line, Exception):
                raise line
            if callback(line):
                self.stopped.set()
                return
        tokens = 0
        while self.endless:
            tokens += 1
            if callback(said("x", tokens=tokens)):
                self.stopped.set()
                return


def run(script: Script, sampling: Sampling = Sampling()) -> tuple[list[Chunk], Completions]:  # noqa: B008
    completions = Completions(script)

    async def collect() -> list[Chunk]:
        return [chunk async for chunk in completions.stream((1, 7, 8, 9, 10), sampling, 20)]

    return asyncio.run(collect()), completions


def test_text_passes_and_steps_count() -> None:
    script = Script(
        said(read=2), said(read=5), said("a", tokens=1), said("", tokens=2), said("你", tokens=3),
        said(finish="stop", tokens=4),
    )  # fmt: skip
    chunks, completions = run(script)
    assert "n_probs" not in script.body
    assert chunks == [Chunk("a", 1), Chunk("你", 3), Chunk("", 4, "stop")]
    assert (completions.steps, completions.computed) == (6, 4)
    assert script.body["prompt"] == [1, 7, 8, 9, 10]
    assert script.body["return_progress"] is True
    assert script.body["n_predict"] == 20


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ({"error": {"message": "no"}}, "engine.computation_failed"),
        (RuntimeError("burst"), "engine.computation_failed"),
        ({"choices": []}, "engine.nonsense"),
        ({"choices": [{"text": "x"}]}, "engine.nonsense"),
    ],
)
def test_errors_end_the_reply_after_what_came_before(line: Any, key: str) -> None:
    seen: list[Chunk] = []

    async def collect() -> None:
        async for chunk in Completions(Script(said("a", tokens=1), line)).stream((1,), Sampling(), 5):
            seen.append(chunk)

    with pytest.raises(EngineError) as caught:
        asyncio.run(collect())
    assert caught.value.key == key
    assert seen == [Chunk("a", 1)]


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_scores_that_are_no_numbers_end_the_reply_where_a_lora_may_be_the_cause(score: float | None) -> None:
    def scored(text: str, tokens: int, value: float | None) -> dict[str, Any]:
        line = said(text, tokens=tokens)
        line["choices"][0]["logprobs"] = {"content": [{"logprob": value}]}
        return line

    script = Script(scored("a", 1, -0.5), scored("junk", 2, score), said(finish="length", tokens=3))
    completions, seen = Completions(script, (Lora("/loras/ada"),)), list[str]()

    async def collect(sampling: Sampling) -> None:
        async for chunk in completions.stream((1, 2), sampling, 5):
            seen.append(chunk.text)

    with pytest.raises(EngineError) as caught:
        asyncio.run(collect(Sampling()))
    assert (caught.value.key, seen) == ("engine.not_numbers", ["a"])
    assert script.body["n_probs"] == 1
    script.lines = ()
    with pytest.raises(EngineError):
        asyncio.run(collect(Sampling(loras=())))  # switched off: the base was checked when it was loaded
    assert "n_probs" not in script.body


def test_an_answer_that_just_stops_is_an_error() -> None:
    with pytest.raises(EngineError, match="stopped computing"):
        run(Script(said("a", tokens=1)))


def test_leaving_stops_the_computation_at_the_next_token() -> None:
    script = Script(endless=True)
    completions = Completions(script)

    async def leave() -> None:
        async with aclosing(completions.stream((1,), Sampling(), 5)) as stream:  # type: ignore[type-var]
            async for _ in stream:
                return

    asyncio.run(leave())
    assert script.stopped.wait(20)


def test_sampling_in_their_words() -> None:
    greedy = request_fields(Sampling(temperature=0.0, repetition_penalty=1.2), prompt=5, most=9)
    assert (greedy["temperature"], greedy["samplers"]) == (0.0, ["penalties", "temperature"])
    assert (greedy["repeat_penalty"], greedy["repeat_last_n"]) == (1.2, 14)
    assert request_fields(Sampling(top_k=1), prompt=5, most=9)["temperature"] == 0.0
    drawn = request_fields(Sampling(0.5, 0.8, 30), prompt=5, most=9)
    assert drawn["samplers"] == ["penalties", "temperature", "top_k", "top_p"]
    assert (drawn["temperature"], drawn["top_p"], drawn["top_k"]) == (0.5, 0.8, 30)
    assert drawn["seed"] != request_fields(Sampling(), prompt=5, most=9)["seed"]


def test_whether_the_first_space_is_dropped() -> None:
    assert drops_first_space(lambda ids: " ".join(str(one) for one in ids))
    assert not drops_first_space(lambda ids: "".join(f" {one}" for one in ids))
    assert not drops_first_space(lambda ids: "".join(str(one) for one in ids))
    assert not drops_first_space(lambda ids: "")
