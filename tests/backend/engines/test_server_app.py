"""What a reply is said to have taken, from when its tokens were computed."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.engines.base import ChatMessage, EngineOptions, EngineState, Finish, Sampling
from backend.engines.generator import Prompt, Readiness, Step
from backend.engines.server_app import build_app
from backend.text import Message


class Generator:
    """Says so many tokens, computed so many seconds from now; all are handed over at once."""

    slots, context = 1, 1000
    placement = Message("fit.no")
    note: Message | None = None

    def __init__(self, *steps: tuple[int, float]) -> None:
        self.steps = steps

    def prepare(self, messages: Sequence[ChatMessage], sampling: Sampling) -> Prompt:
        return Prompt(3)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Step]:
        began = time.monotonic()
        for tokens, at in self.steps:
            yield Step("a", tokens, at=began + at)
        yield Step("", self.steps[-1][0], Finish.STOP)

    def figures(self) -> dict[str, int]:
        return {}

    def problem(self) -> None:
        return None

    def close(self) -> None:
        pass


def _usage(*steps: tuple[int, float]) -> dict[str, Any]:
    readiness = Readiness(Path("toy"), EngineOptions(), EngineState.READY, generator=Generator(*steps))

    async def run() -> dict[str, Any]:
        transport = httpx.ASGITransport(build_app(readiness, "key"))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            body = {"messages": [{"role": "user", "content": "x"}]}
            headers = {"Authorization": "Bearer key"}
            answer = await client.post("/v1/chat/completions", json=body, headers=headers)
            usage: dict[str, Any] = answer.json()["usage"]
            return usage

    return asyncio.run(run())


def test_a_held_up_reader_does_not_make_a_model_fast() -> None:
    assert _usage((1, 0.5), (2, 1.0), (11, 3.0))["decode_s"] == pytest.approx(2.5, abs=0.001)


def test_tokens_that_came_with_the_first_take_as_long_as_the_others() -> None:
    assert _usage((6, 0.5), (11, 1.5))["decode_s"] == pytest.approx(2.0, abs=0.001)  # 10 tokens after the first
    assert _usage((11, 0.5))["decode_s"] == 0  # nobody can tell
