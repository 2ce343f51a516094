"""The queue is fair, bounded, and loses no place when somebody leaves."""

import asyncio

import pytest

from backend.engines import desk as module
from backend.engines.desk import Desk
from backend.errors import EngineError


def test_first_come_first_served() -> None:
    async def run() -> list[int]:
        desk, order, most = Desk(), [], 0

        async def visitor(number: int) -> None:
            nonlocal most
            async with desk.slot(2):
                most = max(most, desk.active)
                order.append(number)
                await asyncio.sleep(0.001)

        await asyncio.gather(*(visitor(number) for number in range(9)))
        assert (desk.active, desk.waiting, most) == (0, 0, 2)
        return order

    assert asyncio.run(run()) == list(range(9))


def test_whoever_leaves_frees_the_place() -> None:
    async def run() -> None:
        desk, served = Desk(), []

        async def visitor(number: int) -> None:
            async with desk.slot(1):
                served.append(number)
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(visitor(number)) for number in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()  # waits
        await asyncio.sleep(0.001)
        tasks[0].cancel()  # is being served
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served == [0, 2, 3]
        assert (desk.active, desk.waiting) == (0, 0)

    asyncio.run(run())


def test_leaving_in_the_moment_of_being_called_passes_the_place_on() -> None:
    async def run() -> None:
        desk, served = Desk(), []

        async def visitor(number: int) -> None:
            async with desk.slot(1):
                served.append(number)

        first = desk.slot(1)
        await first.__aenter__()
        tasks = [asyncio.create_task(visitor(number)) for number in range(2)]
        await asyncio.sleep(0)
        await first.__aexit__(None, None, None)  # calls 0 ...
        tasks[0].cancel()  # ... which leaves before it wakes up
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served == [1]
        assert desk.active == 0

    asyncio.run(run())


def test_leaving_in_the_moment_before_being_called_loses_no_count() -> None:
    async def run() -> None:
        desk, served = Desk(), []

        async def visitor(number: int) -> None:
            async with desk.slot(1):
                served.append(number)
                assert desk.active == 1

        first = desk.slot(1)
        await first.__aenter__()
        tasks = [asyncio.create_task(visitor(number)) for number in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # stops waiting, but has not run yet ...
        await first.__aexit__(None, None, None)  # ... when the place becomes free
        assert desk.active == 1
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served == [1, 2]
        assert (desk.active, desk.waiting) == (0, 0)

    asyncio.run(run())


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)

    async def run() -> None:
        desk = Desk()

        async def visitor() -> None:
            async with desk.slot(1):
                await asyncio.sleep(10)

        tasks = [asyncio.create_task(visitor()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="waiting for an answer"):
            desk.check_open()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        desk.check_open()

    asyncio.run(run())


def test_speed_is_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    desk = Desk()
    assert desk.tokens_per_s() == 0
    desk.count(20)
    desk.count(20)
    assert desk.tokens_per_s() == 0  # a bunch at once tells nothing
    now += 60
    for _ in range(20):
        now += 0.1
        desk.count(2)
    assert desk.tokens_per_s() == pytest.approx(20, rel=0.1)
    now += 60
    assert desk.tokens_per_s() == 0
