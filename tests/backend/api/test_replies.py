"""Streams on a real port, behind the guard: pieces as they come; a client who leaves stops the computation (R20)."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from backend.api import replies
from backend.api.replies import pulsed
from backend.engines.base import Finish, Piece
from backend.errors import EngineError
from tests.backend.api.fake import USAGE, FakeEngine, on_a_port

BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def until(true: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def leave_after(url: str, body: object, word: str) -> None:
    """Ask, and close the connection at a word, or after a while without it."""
    with contextlib.suppress(httpx.ReadTimeout):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=0.7) as answer:
            next(line for line in answer.iter_lines() if word in line)


def test_pieces_arrive_as_they_are_made() -> None:
    engine = FakeEngine([Piece("first", 1), 60, Piece("", 1, Finish.STOP, USAGE)])
    with on_a_port(engine) as url, httpx.stream("POST", f"{url}/v1/chat/completions", json=BODY, timeout=20) as answer:
        lines = answer.iter_lines()
        assert '"first"' in next(line for line in lines if "first" in line)
        assert engine.closed == 0  # it has sixty seconds to go


@pytest.mark.parametrize("when", ["before the first word", "in mid-reply"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_computation(when: str, stream: bool) -> None:
    silent: list[object] = [60.0]
    talking = [thing for n in range(1, 3000) for thing in (Piece(f"w{n} ", n), 0.02)]
    engine = FakeEngine(silent if when == "before the first word" else talking)
    with on_a_port(engine) as url:
        leave_after(url, {**BODY, "stream": stream}, "w5 ")
        assert until(lambda: engine.closed == 1)
        made = engine.made
        time.sleep(0.2)
        assert engine.made == made
        assert made < 1000


def test_a_client_that_leaves_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.api.routes.MAX_OPEN", 1)
    engine = FakeEngine([60.0])
    with on_a_port(engine) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=0.5)
        assert until(lambda: engine.closed == 1)
        engine.script = [Piece("hi", 1, Finish.STOP, USAGE)]
        answer = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=10)
        assert answer.status_code == 200


def test_a_long_silence_begins_the_stream_and_keeps_it_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOOK_S": 0.05, "STATUS_S": 0.1, "ALIVE_S": 0.2}.items():
        monkeypatch.setattr(replies, name, value)
    engine = FakeEngine([1.0, EngineError("engine.lost", what="killed")])
    with on_a_port(engine) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=20)
    assert answer.status_code == 200
    assert ": waiting\n\n" in answer.text
    last = answer.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine.lost"


async def numbers(log: list[str], pause_s: float) -> AsyncIterator[int]:
    try:
        for number in range(3):
            await asyncio.sleep(pause_s)
            yield number
    finally:
        log.append("closed")


def test_pulses_fill_the_silence_and_lose_nothing() -> None:
    async def main() -> None:
        log: list[str] = []
        found = [item async for item in pulsed(numbers(log, 0.05), 0.02)]
        assert [item for item in found if item is not None] == [0, 1, 2]
        assert None in found
        assert log == ["closed"]
        assert [item async for item in pulsed(numbers(log, 0), 5)] == [0, 1, 2]

    asyncio.run(main())


@pytest.mark.parametrize("after", [0, 1, 2])
def test_closing_closes_the_source_at_once(after: int) -> None:
    async def main() -> None:
        log: list[str] = []
        items = pulsed(numbers(log, 0.03), 0.01)
        for _ in range(after):
            await anext(items)
        await items.aclose()
        assert log == (["closed"] if after else [])  # an iterator nobody began has nothing to close

    asyncio.run(main())


def test_cancelling_closes_the_source() -> None:
    async def main() -> None:
        log: list[str] = []

        async def read() -> None:
            async for _ in pulsed(numbers(log, 60), 60):
                pass

        task = asyncio.ensure_future(read())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        await asyncio.get_running_loop().shutdown_asyncgens()
        assert log == ["closed"]

    asyncio.run(main())
