"""A conversation and an engine together: what is asked, what is kept, and how each end is recorded."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from backend.conversations import Conversations, StoredMessage
from backend.engines.base import (
    ChatMessage,
    EngineOptions,
    EngineState,
    EngineStatus,
    Finish,
    Lora,
    Piece,
    Sampling,
    Usage,
)
from backend.errors import ContextFull, EngineError, UsageError
from backend.replies import alternate, reply, require_ready

ME = "owner-a"
USUAL = Sampling()
END = Piece("", 3, Finish.STOP, Usage(7, 3, 0.2, 0.4))


class Engine:
    """Says what it was given; an exception among it is raised. Remembers what it was asked and whether it ended."""

    def __init__(self, *script: Piece | Exception | float, state: EngineState = EngineState.READY) -> None:
        self.script, self.state = script, state
        self.asked: Sequence[ChatMessage] = ()
        self.ended = False
        self.options = EngineOptions()

    def status(self) -> EngineStatus:
        return EngineStatus(self.state, "toy", self.options)

    async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
        self.asked = messages
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.ended = True


@pytest.fixture
def store(tmp_path: Path) -> Conversations:
    return Conversations(tmp_path / "cria.sqlite")


def ask(store: Conversations, *texts: str) -> str:
    conversation = store.current(ME).id
    for text in texts:
        store.append(ME, conversation, text)
    return conversation


def run(
    store: Conversations, engine: Engine, conversation: str, again: int | None = None, *, sampling: Sampling = USUAL
) -> str:
    async def go() -> str:
        pieces = reply(store, engine, owner=ME, conversation=conversation, sampling=sampling, again=again)
        return "".join([piece.text async for piece in pieces])

    return asyncio.run(go())


def last(store: Conversations, conversation: str) -> StoredMessage:
    return store.messages(ME, conversation)[-1]


def test_a_whole_reply_is_streamed_and_stored_with_its_figures(store: Conversations) -> None:
    conversation, engine = ask(store, "Hello"), Engine(Piece("Good ", 1), Piece("day", 2), END)
    assert run(store, engine, conversation) == "Good day"
    kept = last(store, conversation)
    assert (kept.text, kept.finish, kept.usage, kept.model) == ("Good day", Finish.STOP, END.usage, "toy")
    assert engine.ended


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [(None, (("a", 1.0), ("b", 0.5))), ((), ()), ((("a", 0.0), ("b", 2.0)), (("b", 2.0),))],
)
def test_a_reply_keeps_which_adapters_took_part(
    store: Conversations, wanted: tuple[tuple[str, float], ...] | None, kept: tuple[tuple[str, float], ...]
) -> None:
    conversation, engine = ask(store, "Hello"), Engine(Piece("Good ", 1), END)
    engine.options = EngineOptions(loras=(Lora("/x/a"), Lora("/x/b", 0.5), Lora("/x/off", 0.0)))
    run(store, engine, conversation, sampling=Sampling(loras=wanted))
    assert last(store, conversation).loras == kept
    run(store, engine, conversation, store.last_question(ME, conversation), sampling=Sampling(loras=(("b", 1.0),)))
    assert last(store, conversation).loras == (("b", 1.0),)


def test_the_engine_reads_system_prompt_and_all_turns(store: Conversations) -> None:
    conversation = ask(store, "one")
    store.save_settings(ME, conversation, system="Be brief.", sampling=Sampling())
    run(store, Engine(Piece("first", 1), END), conversation)
    ask(store, "two")
    engine = Engine(END)
    run(store, engine, conversation)
    assert [(turn.role, turn.content) for turn in engine.asked] == [
        ("system", "Be brief."), ("user", "one"), ("assistant", "first"), ("user", "two"),
    ]  # fmt: skip


def test_questions_without_an_answer_are_asked_together(store: Conversations) -> None:
    conversation, engine = ask(store, "one", "two"), Engine(END)
    run(store, engine, conversation)
    assert [(turn.role, turn.content) for turn in engine.asked] == [("user", "one\n\ntwo")]
    assert alternate([]) == ()


def test_leaving_keeps_what_was_said_as_stopped(store: Conversations) -> None:
    conversation, engine = ask(store, "Hello"), Engine(Piece("Once", 1), 0.02, Piece(" upon", 2), 60.0)

    async def go() -> None:
        async with aclosing(
            reply(store, engine, owner=ME, conversation=conversation, sampling=Sampling())
        ) as pieces:  # fmt: skip
            assert [(await anext(pieces)).text, (await anext(pieces)).text] == ["Once", " upon"]

    asyncio.run(go())
    kept = last(store, conversation)
    assert (kept.text, kept.finish, kept.usage.completion_tokens) == ("Once upon", Finish.CANCELLED, 2)
    assert kept.usage.decode_s >= 0.02
    assert engine.ended


@pytest.mark.parametrize(
    ("problem", "finish"),
    [
        (ContextFull("replies.not_loaded"), Finish.CONTEXT),
        (EngineError("replies.not_loaded"), Finish.ERROR),
        (RuntimeError("bug"), Finish.ERROR),
    ],
)
def test_a_failure_is_raised_and_recorded(store: Conversations, problem: Exception, finish: Finish) -> None:
    conversation = ask(store, "Hello")
    with pytest.raises(type(problem)):
        run(store, Engine(Piece("Half", 1), problem), conversation)
    assert (last(store, conversation).text, last(store, conversation).finish) == ("Half", finish)


def test_an_empty_failed_reply_is_not_read_to_the_engine_again(store: Conversations) -> None:
    conversation = ask(store, "Hello")
    with pytest.raises(ContextFull):
        run(store, Engine(ContextFull("replies.not_loaded")), conversation)
    engine = Engine(END)
    run(store, engine, conversation)
    assert [turn.content for turn in engine.asked] == ["Hello"]


def test_answering_again_replaces_the_old_reply_and_reads_none_of_it(store: Conversations) -> None:
    conversation = ask(store, "Hello")
    run(store, Engine(Piece("Old", 1), END), conversation)
    engine = Engine(Piece("New", 1), END)
    assert run(store, engine, conversation, store.last_question(ME, conversation)) == "New"
    assert [turn.content for turn in engine.asked] == ["Hello"]
    assert [one.text for one in store.messages(ME, conversation)] == ["Hello", "New"]


def test_answering_again_keeps_the_old_reply_when_no_new_one_begins(store: Conversations) -> None:
    conversation = ask(store, "Hello")
    run(store, Engine(Piece("Old", 1), END), conversation)
    before = store.messages(ME, conversation)
    with pytest.raises(EngineError):
        run(store, Engine(EngineError("engine.queue_full")), conversation, store.last_question(ME, conversation))
    assert store.messages(ME, conversation) == before


def test_a_question_asked_meanwhile_is_not_answered_over(store: Conversations) -> None:
    conversation = ask(store, "Hello")
    run(store, Engine(Piece("Old", 1), END), conversation)
    first = store.last_question(ME, conversation)
    ask(store, "Another")
    engine = Engine(Piece("New", 1), END)
    with pytest.raises(UsageError):
        run(store, engine, conversation, first)
    assert engine.ended
    assert [one.text for one in store.messages(ME, conversation)] == ["Hello", "Old", "Another"]


def test_clearing_meanwhile_ends_the_reply(store: Conversations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.conversations.growing._SAVE_EVERY_S", 0.0)
    conversation, engine = ask(store, "Hello"), Engine(Piece("Once", 1), Piece(" upon", 2), 60.0)

    async def go() -> list[str]:
        got = []
        async for piece in reply(store, engine, owner=ME, conversation=conversation, sampling=Sampling()):
            got.append(piece.text)
            store.clear(ME, conversation)
        return got

    assert asyncio.run(asyncio.wait_for(go(), 20)) == ["Once"]
    assert store.messages(ME, conversation) == ()
    assert engine.ended


@pytest.mark.parametrize(
    ("state", "key"),
    [
        (EngineState.OFF, "replies.not_loaded"),
        (EngineState.FAILED, "replies.not_loaded"),
        (EngineState.STOPPING, "replies.not_loaded"),
        (EngineState.LOADING, "replies.loading"),
        (EngineState.STARTING, "replies.loading"),
    ],
)
def test_nobody_is_asked_before_somebody_can_answer(state: EngineState, key: str) -> None:
    with pytest.raises(EngineError) as caught:
        require_ready(Engine(state=state))
    assert caught.value.key == key
    require_ready(Engine())


def test_a_message_waits_for_an_engine_that_comes_back() -> None:
    assert [state for state in EngineState if EngineStatus(state, returning=True).answers] == [
        EngineState.STARTING, EngineState.LOADING, EngineState.READY, EngineState.ASLEEP,
    ]  # fmt: skip
    assert [state for state in EngineState if EngineStatus(state).answers] == [EngineState.READY, EngineState.ASLEEP]
