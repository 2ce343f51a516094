"""Pacing: the formula, the open block, and a source that is always ended."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ui.streaming import FASTEST_S, SLOWEST_S, OpenBlock, Pacer, paced


def block(*pieces: str) -> int:
    open_block = OpenBlock()
    for piece in pieces:
        open_block.feed(piece)
    return open_block.length


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("one line", 8),
        ("one\ntwo", 7),
        ("first\n\nsecond", 6),
        ("first\n\n", 7),  # nothing new has begun
        ("a\n\n```py\nx = 1\n\ny = 2\n", 19),  # a blank line does not end a fence
        ("```\nx\n```\n\nafter", 5),
        ("````\n```\n\nstill inside", 22),  # a shorter fence does not close a longer one
        ("- one\n\n- two\n\n  more", 20),  # a loose list is one block
        ("- one\n\nafter", 5),
        ("1. one\n\n2. two", 14),
        ("| a | b |\n| - | - |\n| 1 | 2 |", 29),
        ("", 0),
    ],
)
def test_the_open_block(text: str, length: int) -> None:
    assert block(text) == length


@settings(max_examples=500)
@given(st.text(alphabet="ab \n`-1.~|", max_size=80), st.lists(st.integers(0, 80)))
def test_pieces_do_not_matter(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert block(*(text[a:b] for a, b in pairwise(edges))) == block(text) <= len(text)


def test_the_interval_grows_with_what_there_is_to_draw_and_stays_within_bounds() -> None:
    pacer = Pacer()
    assert pacer.interval == FASTEST_S
    pacer.feed("x" * 8000)
    assert pacer.interval == pytest.approx(25e-6 * 8000 + 0.7e-6 * 8000)
    pacer.feed("\n\nnew block")
    assert pacer.interval == FASTEST_S
    assert Pacer(history_chars=10**6).interval == SLOWEST_S
    assert Pacer(history_chars=80_000 * 4).interval == pytest.approx(0.224)


def test_only_later_updates_wait() -> None:
    pacer = Pacer()
    assert pacer.wait(100.0) == 0
    pacer.sent(100.0)
    assert pacer.wait(100.0) == pytest.approx(FASTEST_S)
    assert pacer.wait(100.05) == pytest.approx(FASTEST_S - 0.05)
    assert pacer.wait(200.0) == 0


class Source:
    """Yields texts with pauses; remembers how it ended."""

    def __init__(self, *steps: str | float | Exception) -> None:
        self.steps, self.ended = steps, False

    async def run(self) -> AsyncIterator[str]:
        try:
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            await asyncio.sleep(0)  # as a network stream does
            self.ended = True


def test_everything_arrives_once_and_in_order() -> None:
    async def go() -> list[str]:
        source = Source(*[str(number) for number in range(50)], 0.01, "end")
        got = [item async for batch in paced(source.run(), Pacer()) for item in batch]
        assert source.ended
        return got

    assert asyncio.run(go()) == [*(str(number) for number in range(50)), "end"]


def test_a_fast_source_is_batched_and_its_end_does_not_wait() -> None:
    async def go() -> tuple[int, float]:
        source = Source(*["x", 0.002] * 100)
        slow = Pacer(history_chars=10**7)  # half a second between updates
        started = asyncio.get_running_loop().time()
        batches = [batch async for batch in paced(source.run(), slow) if batch]
        return len(batches), asyncio.get_running_loop().time() - started

    count, seconds = asyncio.run(go())
    assert 2 <= count <= 6
    assert seconds < 5


def test_a_silent_source_still_beats() -> None:
    async def go() -> list[list[str]]:
        return [batch async for batch in paced(Source(0.12, "late").run(), Pacer(), heartbeat=0.03)]

    batches = asyncio.run(go())
    assert batches[0] == []
    assert batches[-1] == ["late"] or batches[-2:] == [["late"], []]


def test_closing_ends_the_source_first() -> None:
    async def go() -> bool:
        source = Source("first", 60.0, "never")
        batches = paced(source.run(), Pacer())
        assert await anext(batches) == ["first"]
        await batches.aclose()
        return source.ended

    assert asyncio.run(go())


def test_cancelling_ends_the_source_first() -> None:
    async def go() -> bool:
        source = Source("first", 60.0)

        async def read() -> None:
            async for _ in paced(source.run(), Pacer()):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return source.ended

    assert asyncio.run(go())


def test_an_error_comes_after_what_was_said() -> None:
    async def go() -> list[str]:
        got: list[str] = []

        async def read() -> None:
            async for batch in paced(Source("one", "two", RuntimeError("died")).run(), Pacer()):
                got.extend(batch)

        with pytest.raises(RuntimeError, match="died"):
            await read()
        return got

    assert asyncio.run(go()) == ["one", "two"]
