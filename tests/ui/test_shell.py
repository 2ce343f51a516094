"""The edge of the page: values pass, mistakes become one notice, bugs become a notice and a log entry."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr
import pytest

from backend.errors import EngineError, UsageError
from ui.shell import guarded

SKIP = gr.skip()


def mistake() -> None:
    raise UsageError("replies.loading", model="<b>m</b>")


def test_values_leave_the_notice_alone_whenever_they_come() -> None:
    assert guarded(lambda: "one", 1)() == ("one", SKIP)
    assert guarded(lambda: ("one", "two"), 2)() == ("one", "two", SKIP)
    assert guarded(lambda: None, 0)() == SKIP
    assert guarded(lambda: "one", 1, quiet=True)() == "one"
    assert guarded(lambda: None, 0, quiet=True)() is None


def test_a_known_error_leaves_the_outputs_alone() -> None:
    *values, notice = guarded(mistake, 2)()
    assert values == [SKIP, SKIP]
    assert 'role="alert"' in notice
    assert "&lt;b&gt;m&lt;/b&gt; is still loading." in notice
    assert "<b>m" not in notice
    assert "Send it when the model is ready" in notice
    assert guarded(mistake, 1, quiet=True)() == SKIP


def test_the_same_error_twice_is_shown_twice() -> None:
    assert guarded(mistake, 0)() != guarded(mistake, 0)()


def test_a_bug_is_logged_and_said_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def bug() -> None:
        raise ZeroDivisionError("secret path")

    notice = guarded(bug, 0)()
    assert "Traceback" not in notice
    assert "ZeroDivisionError" in notice
    assert caplog.records[0].exc_info is not None


def test_a_wrong_number_of_values_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    *values, notice = guarded(lambda: ("one",), 2)()
    assert values == [SKIP, SKIP]
    assert "alert" in notice
    assert caplog.records


def test_the_notice_speaks_the_visitors_language() -> None:
    def fails(request: gr.Request) -> None:
        mistake()

    asking = gr.Request()
    asking.kwargs = {"headers": {"accept-language": "zh-TW"}, "cookies": {}}
    assert "還在載入" in guarded(fails, 0)(asking)


def test_only_an_administrator_reads_the_engines_last_words() -> None:
    def fails(request: gr.Request) -> None:
        raise EngineError("engine.died", how="9", log="in /home/ann/x.py")

    asking = gr.Request()
    for said, shown in (("1", True), ("0", False)):
        asking.kwargs = {"headers": {"x-cria-admin": said}, "cookies": {}}
        assert ("/home/ann" in guarded(fails, 0)(asking)) is shown


def test_coroutines_and_named_inputs() -> None:
    async def waits(one: str, **form: Any) -> str:
        await asyncio.sleep(0)
        if form["bad"]:
            mistake()
        return one

    handler = guarded(waits, 1)
    assert inspect.iscoroutinefunction(handler)
    assert asyncio.run(handler("x", bad=False)) == ("x", SKIP)
    assert "alert" in asyncio.run(handler("x", bad=True))[1]


def test_streams_keep_their_steps_and_end_with_the_error() -> None:
    closed = []

    async def streams() -> AsyncIterator[str]:
        try:
            yield "one"
            yield "two"
            mistake()
        finally:
            closed.append(True)

    handler = guarded(streams, 1)
    assert inspect.isasyncgenfunction(handler)

    async def go() -> list[Any]:
        return [step async for step in handler()]

    first, second, last = asyncio.run(go())
    assert first == ("one", SKIP)
    assert second == ("two", SKIP)
    assert last[0] == SKIP
    assert "alert" in last[1]
    assert closed == [True]


def test_closing_a_stream_closes_the_handler() -> None:
    closed = []

    async def streams() -> AsyncIterator[str]:
        try:
            while True:
                yield "tick"
        finally:
            closed.append(True)

    async def go() -> None:
        async with aclosing(guarded(streams, 1)()) as steps:
            await anext(steps)

    asyncio.run(go())
    assert closed == [True]
