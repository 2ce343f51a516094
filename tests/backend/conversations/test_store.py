"""Conversations: what each owner keeps, what others cannot reach, limits, and many threads at once."""

import asyncio
import string
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.conversations import MAX_SYSTEM, MAX_TEXT, Conversations, StoredMessage, store
from backend.engines.base import ChatMessage, Finish, Sampling, Usage
from backend.errors import Refused, UsageError

ALICE, BOB = "a" * 64, "b" * 64


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Conversations]:
    made = Conversations(tmp_path / "cria.sqlite")
    yield made
    made.close()


def said(kept: Conversations, owner: str, conversation: str) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in kept.messages(owner, conversation)]


def talk(kept: Conversations, owner: str, *pairs: tuple[str, str]) -> str:
    """Add questions with finished replies to the current conversation; return its id."""
    conversation = kept.current(owner).id
    for question, answer in pairs:
        kept.append(owner, conversation, question)
        kept.begin_reply(owner, conversation, model="toy").finish(answer, Finish.STOP)
    return conversation


def test_the_current_conversation_stays_the_same_until_another_is_used(kept: Conversations) -> None:
    first = talk(kept, ALICE, ("hello", "hi"))
    assert kept.current(ALICE).id == first
    second = kept.new(ALICE).id
    assert second != first
    assert kept.current(ALICE).id == second
    kept.append(ALICE, first, "again")
    assert kept.current(ALICE).id == first
    kept.open(ALICE, second)
    assert [one.id for one in kept.list(ALICE)] == [second, first]


def test_a_new_conversation_reuses_an_empty_one(kept: Conversations) -> None:
    assert kept.new(ALICE).id == kept.new(ALICE).id
    assert len(kept.list(ALICE)) == 1


def test_order_does_not_depend_on_the_clock(tmp_path: Path) -> None:
    times = iter(range(1000, 0, -1))
    kept = Conversations(tmp_path / "c.sqlite", clock=lambda: float(next(times)))
    first = talk(kept, ALICE, ("one", "1"))
    second = kept.new(ALICE).id
    kept.append(ALICE, second, "two")
    assert [one.id for one in kept.list(ALICE)] == [second, first]
    kept.close()


def test_what_was_said_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cria.sqlite"
    kept = Conversations(path)
    conversation = kept.current(ALICE).id
    kept.append(ALICE, conversation, "问题\x00 with NUL")
    reply = kept.begin_reply(ALICE, conversation, model="toy")
    usage = Usage(prompt_tokens=5, completion_tokens=7, first_token_s=0.25, decode_s=1.5)
    assert reply.finish("answer", Finish.LENGTH, usage)
    kept.save_settings(ALICE, conversation, system="Be brief.", sampling=Sampling(temperature=0.0, top_k=3))
    kept.close()

    again = Conversations(path)
    found = again.current(ALICE)
    assert (found.id, found.title, found.system) == (conversation, "问题\x00 with NUL", "Be brief.")
    assert found.sampling == Sampling(temperature=0.0, top_k=3)
    question, answer = again.messages(ALICE, conversation)
    assert (question.text, question.finish) == ("问题\x00 with NUL", None)
    assert (answer.text, answer.model, answer.finish, answer.usage) == ("answer", "toy", Finish.LENGTH, usage)
    assert again.turns(ALICE, conversation)[0] == ChatMessage("system", "Be brief.")
    again.close()


def test_turns_leave_out_replies_that_say_nothing(kept: Conversations) -> None:
    conversation = talk(kept, ALICE, ("one", ""), ("two", "2"))
    assert [turn.content for turn in kept.turns(ALICE, conversation)] == ["one", "two", "2"]


def test_edit_drops_what_follows(kept: Conversations) -> None:
    conversation = talk(kept, ALICE, ("one", "1"), ("two", "2"), ("three", "3"))
    second = kept.messages(ALICE, conversation)[2]
    kept.edit(ALICE, conversation, second.id, "two!")
    assert said(kept, ALICE, conversation) == [("user", "one"), ("assistant", "1"), ("user", "two!")]


def test_only_what_a_person_said_can_be_edited(kept: Conversations) -> None:
    conversation = talk(kept, ALICE, ("one", "1"))
    reply = kept.messages(ALICE, conversation)[1]
    for message in (reply.id, 999, -1):
        with pytest.raises(UsageError, match="cannot be changed"):
            kept.edit(ALICE, conversation, message, "other words")
    assert said(kept, ALICE, conversation) == [("user", "one"), ("assistant", "1")]


def test_undo_regenerate_and_clear(kept: Conversations) -> None:
    conversation = talk(kept, ALICE, ("one", "1"), ("two", "2"))
    assert kept.regenerate(ALICE, conversation) == "two"
    assert said(kept, ALICE, conversation)[-1] == ("user", "two")
    assert kept.undo(ALICE, conversation) == "two"
    assert kept.undo(ALICE, conversation) == "one"
    assert kept.undo(ALICE, conversation) == ""
    assert kept.regenerate(ALICE, conversation) == ""
    talk(kept, ALICE, ("three", "3"))
    kept.save_settings(ALICE, conversation, system="Keep me", sampling=Sampling())
    kept.clear(ALICE, conversation)
    assert said(kept, ALICE, conversation) == []
    assert kept.current(ALICE).system == "Keep me"


EVERY_CALL: dict[str, Callable[[Conversations, str, str, int], object]] = {
    "get": lambda kept, owner, it, _: kept.get(owner, it),
    "messages": lambda kept, owner, it, _: kept.messages(owner, it),
    "turns": lambda kept, owner, it, _: kept.turns(owner, it),
    "append": lambda kept, owner, it, _: kept.append(owner, it, "mine now"),
    "begin_reply": lambda kept, owner, it, _: kept.begin_reply(owner, it, model="toy"),
    "edit": lambda kept, owner, it, message: kept.edit(owner, it, message, "forged"),
    "undo": lambda kept, owner, it, _: kept.undo(owner, it),
    "regenerate": lambda kept, owner, it, _: kept.regenerate(owner, it),
    "clear": lambda kept, owner, it, _: kept.clear(owner, it),
    "open": lambda kept, owner, it, _: kept.open(owner, it),
    "delete": lambda kept, owner, it, _: kept.delete(owner, it),
    "save_settings": lambda kept, owner, it, _: kept.save_settings(owner, it, system="x", sampling=Sampling()),
}


@pytest.mark.parametrize("call", EVERY_CALL)
def test_somebody_elses_conversation_is_not_found(kept: Conversations, call: str) -> None:
    conversation = talk(kept, ALICE, ("secret", "answer"))
    before = (kept.list(ALICE), kept.messages(ALICE, conversation))
    with pytest.raises(UsageError) as foreign:
        EVERY_CALL[call](kept, BOB, conversation, before[1][0].id)
    with pytest.raises(UsageError) as unknown:
        EVERY_CALL[call](kept, BOB, "no-such-id", before[1][0].id)
    assert foreign.value.to_json() == unknown.value.to_json()
    assert (kept.list(ALICE), kept.messages(ALICE, conversation)) == before
    assert kept.list(BOB) == ()


def test_every_public_call_with_a_conversation_is_in_the_table() -> None:
    public = {name for name in vars(Conversations) if not name.startswith("_")}
    assert public - set(EVERY_CALL) == {"current", "new", "list", "settle", "close", "notice"}


def test_a_message_of_another_conversation_cannot_be_edited(kept: Conversations) -> None:
    hers = talk(kept, ALICE, ("secret", "answer"))
    message = kept.messages(ALICE, hers)[0].id
    his = talk(kept, BOB, ("hi", "ho"))
    with pytest.raises(UsageError, match="cannot be changed"):
        kept.edit(BOB, his, message, "forged")
    assert said(kept, ALICE, hers)[0] == ("user", "secret")


def test_without_a_name_there_is_no_conversation(kept: Conversations) -> None:
    with pytest.raises(Refused, match="cookies"):
        kept.current("")


@pytest.mark.parametrize("text", ["", " \n\t ", "x" * (MAX_TEXT + 1)])
def test_a_message_has_some_length(kept: Conversations, text: str) -> None:
    conversation = talk(kept, ALICE, ("one", "1"))
    with pytest.raises(UsageError):
        kept.append(ALICE, conversation, text)
    with pytest.raises(UsageError):
        kept.edit(ALICE, conversation, kept.messages(ALICE, conversation)[0].id, text)
    assert said(kept, ALICE, conversation) == [("user", "one"), ("assistant", "1")]


def test_the_longest_message_is_kept_whole(kept: Conversations) -> None:
    conversation = kept.current(ALICE).id
    kept.append(ALICE, conversation, "字" * MAX_TEXT)
    assert len(kept.messages(ALICE, conversation)[0].text) == MAX_TEXT
    assert len(kept.current(ALICE).title) == 80


def test_a_long_system_prompt_is_refused(kept: Conversations) -> None:
    conversation = kept.current(ALICE).id
    with pytest.raises(UsageError, match=str(MAX_SYSTEM)):
        kept.save_settings(ALICE, conversation, system="x" * (MAX_SYSTEM + 1), sampling=Sampling())


def test_a_full_conversation_says_so_and_a_question_leaves_room_for_its_reply(
    kept: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_MESSAGES", 4)
    conversation = talk(kept, ALICE, ("one", "1"), ("two", "2"))
    with pytest.raises(UsageError, match="full: 4"):
        kept.append(ALICE, conversation, "three")
    kept.undo(ALICE, conversation)
    kept.append(ALICE, conversation, "two again")
    kept.begin_reply(ALICE, conversation, model="toy")
    with pytest.raises(UsageError, match="full: 4"):
        kept.begin_reply(ALICE, conversation, model="toy")


def test_conversations_of_one_owner_are_bounded(kept: Conversations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_CONVERSATIONS", 3)
    for number in range(3):
        kept.append(ALICE, kept.new(ALICE).id, f"question {number}")
    with pytest.raises(UsageError, match="3 conversations"):
        kept.new(ALICE)
    kept.new(BOB)
    kept.delete(ALICE, kept.list(ALICE)[-1].id)
    assert kept.new(ALICE).title == ""


def test_the_oldest_empty_conversations_go_first(kept: Conversations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MAX_EMPTY", 5)
    talk(kept, ALICE, ("one", "1"))
    for number in range(20):
        kept.current(f"visitor {number}")
    left = [number for number in range(20) if kept.list(f"visitor {number}")]
    assert left == [15, 16, 17, 18, 19]
    assert len(kept.list(ALICE)) == 1


def test_deleting_takes_the_messages_along(kept: Conversations) -> None:
    conversation = talk(kept, ALICE, ("one", "1"))
    kept.delete(ALICE, conversation)
    with kept._database.transaction() as db:
        assert db.execute("SELECT count(*) FROM messages").fetchone()[0] == 0


def test_unfinished_replies_of_a_stopped_server_are_settled(kept: Conversations) -> None:
    conversation = kept.current(ALICE).id
    kept.append(ALICE, conversation, "one")
    reply = kept.begin_reply(ALICE, conversation, model="toy")
    assert reply.finish("half an ans", Finish.CANCELLED)
    kept.begin_reply(ALICE, conversation, model="toy")
    assert kept.settle() == 1
    assert [message.finish for message in kept.messages(ALICE, conversation)] == [None, Finish.CANCELLED, Finish.ERROR]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(), min_size=1, max_size=300))
def test_any_text_comes_back_as_it_was_except_lone_surrogates(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    kept = Conversations(tmp_path_factory.mktemp("any") / "c.sqlite")
    try:
        conversation = kept.current(ALICE).id
        kept.append(ALICE, conversation, "x" + text)
        back = kept.messages(ALICE, conversation)[0].text
    finally:
        kept.close()
    assert back == ("x" + text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_surrogates_never_fail(kept: Conversations) -> None:
    conversation = kept.current(ALICE).id
    kept.append(ALICE, conversation, "a\ud800b \ud83d\ude00")
    kept.save_settings(ALICE, conversation, system="\udfff", sampling=Sampling())
    assert kept.messages(ALICE, conversation)[0].text == "a\ufffdb \U0001f600"
    assert kept.current(ALICE).system == "\ufffd"


def test_many_threads_lose_nothing(kept: Conversations) -> None:
    problems: list[BaseException] = []

    def work(owner: str) -> None:
        try:
            conversation = kept.current(owner).id
            for number in range(25):
                kept.append(owner, conversation, f"{owner} {number}")
                kept.messages(owner, conversation)
        except BaseException as problem:  # noqa: BLE001 - shown below
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in string.ascii_lowercase[:8]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    for owner in string.ascii_lowercase[:8]:
        texts = [message.text for message in kept.messages(owner, kept.current(owner).id)]
        assert texts == [f"{owner} {number}" for number in range(25)]


def test_two_files_open_on_one_database_see_each_other(tmp_path: Path) -> None:
    one, other = Conversations(tmp_path / "c.sqlite"), Conversations(tmp_path / "c.sqlite")
    conversation = talk(one, ALICE, ("hello", "hi"))
    other.append(ALICE, conversation, "from the other")
    seen: tuple[StoredMessage, ...] = one.messages(ALICE, conversation)
    assert [message.text for message in seen] == ["hello", "hi", "from the other"]
    one.close()
    other.close()


def test_it_can_be_used_from_tasks_and_worker_threads_alike(kept: Conversations) -> None:
    async def main() -> list[str]:
        conversation = kept.current(ALICE).id
        kept.append(ALICE, conversation, "from a task")
        await asyncio.to_thread(kept.append, ALICE, conversation, "from a thread")
        return [message.text for message in kept.messages(ALICE, conversation)]

    assert asyncio.run(main()) == ["from a task", "from a thread"]
