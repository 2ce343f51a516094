"""What sending, regenerating and editing do to a conversation when no reply can be made."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from backend.conversations import MAX_SYSTEM, Conversations
from backend.engines.base import ChatMessage, EngineOptions, EngineState, EngineStatus, Finish, Piece, Sampling
from backend.engines.line import Line
from backend.errors import CriaError, EngineError
from ui.render.chat import as_typed
from ui.views.chat import build_chat
from ui.wiring.chat import _Handlers

ME = "visitor-a"
FORM = {"system": "", "temperature": 0.7, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1, "max_new_tokens": 64,
        "loras": ""}  # fmt: skip
LONG = {**FORM, "system": "x" * (MAX_SYSTEM + 1)}


class Engine:
    """Says one word, unless it is told to refuse."""

    state, refuses, endless = EngineState.READY, False, False

    def status(self) -> EngineStatus:
        return EngineStatus(self.state, "toy")

    async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
        if self.refuses:
            raise EngineError("engine.queue_full", most=1)
        count = 0
        while self.endless:
            count += 1
            yield Piece("and ", count)
            await asyncio.sleep(0.01)
        yield Piece("new", 1, Finish.STOP)


class Visitor:
    """One browser with a conversation of one question and one reply."""

    def __init__(self, handlers: _Handlers, store: Conversations) -> None:
        self.handlers, self.store = handlers, store
        self.request = gr.Request()
        self.request.kwargs = {"headers": {"x-cria-visitor": ME}, "cookies": {}}
        self.conversation = store.current(ME).id
        store.append(ME, self.conversation, "is a <b>?")
        store.begin_reply(ME, self.conversation, model="toy").finish("old", Finish.STOP)

    @property
    def texts(self) -> list[str]:
        return [one.text for one in self.store.messages(ME, self.conversation)]

    def send(self, form: dict[str, Any]) -> list[Any]:
        return self._drain(self.handlers.send(self.request, "more", None, **form))

    def retry(self, form: dict[str, Any]) -> list[Any]:
        return self._drain(self.handlers.retry(self.request, None, **form))

    def edit(self, form: dict[str, Any]) -> list[Any]:
        change = {"index": 0, "previous_value": as_typed("is a <b>?"), "value": as_typed("is a <b> or <i>?")}
        return self._drain(self.handlers.edit(self.request, gr.EditData(None, change), None, **form))

    @staticmethod
    def _drain(steps: AsyncIterator[Any]) -> list[Any]:
        async def drain() -> list[Any]:
            return [step async for step in steps]

        return asyncio.run(drain())


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def visitor(tmp_path: Path, engine: Engine) -> Visitor:
    store = Conversations(tmp_path / "cria.sqlite")

    async def lay_out() -> _Handlers:
        with gr.Blocks(analytics_enabled=False):
            services = SimpleNamespace(engine=engine, conversations=store, line=Line())
            return _Handlers(build_chat(EngineOptions()), services)  # type: ignore[arg-type]

    return Visitor(asyncio.run(lay_out()), store)


ACTS: dict[str, Callable[[Visitor, dict[str, Any]], list[Any]]] = {
    "send": Visitor.send, "retry": Visitor.retry, "edit": Visitor.edit,
}  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("fault", ["system prompt", "no model"])
def test_nothing_is_added_or_dropped_before_a_reply_can_be_asked_for(
    visitor: Visitor, engine: Engine, act: str, fault: str
) -> None:
    engine.state = EngineState.READY if fault == "system prompt" else EngineState.OFF
    for _ in range(2):
        with pytest.raises(CriaError):
            ACTS[act](visitor, LONG if fault == "system prompt" else FORM)
    assert visitor.texts == ["is a <b>?", "old"]


def test_a_refused_regenerate_keeps_the_old_reply(visitor: Visitor, engine: Engine) -> None:
    engine.refuses = True
    with pytest.raises(EngineError):
        visitor.retry(FORM)
    assert visitor.texts == ["is a <b>?", "old"]
    engine.refuses = False
    steps = visitor.retry(FORM)
    assert len(steps[0][0]) == 2  # the question and dots: the old reply is not shown while the new one is awaited
    assert visitor.texts == ["is a <b>?", "new"]


def test_an_edited_message_is_stored_as_it_was_typed(visitor: Visitor) -> None:
    visitor.edit(FORM)
    assert visitor.texts == ["is a <b> or <i>?", "new"]


@pytest.mark.parametrize("act", ["send", "retry"])
def test_stop_ends_a_reply_on_the_server_too(visitor: Visitor, engine: Engine, act: str) -> None:
    engine.endless = True
    handlers = visitor.handlers

    async def talk() -> int:
        steps = handlers.send(visitor.request, "more", None, **FORM) if act == "send" else None
        count = 0
        async for _ in steps or handlers.retry(visitor.request, None, **FORM):
            count += 1
            assert count < 1000
            if count == 3:
                await handlers.stop(visitor.request)
        return count

    assert asyncio.run(talk()) >= 3
    last = visitor.store.messages(ME, visitor.conversation)[-1]
    assert last.finish is Finish.CANCELLED
    assert last.text.startswith("and ")
    assert handlers._running == {}


def test_stop_with_nothing_running_does_no_harm(visitor: Visitor) -> None:
    asyncio.run(visitor.handlers.stop(visitor.request))
    assert visitor.texts == ["is a <b>?", "old"]
