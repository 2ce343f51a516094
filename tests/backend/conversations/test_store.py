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
from backend.errors import MachineError, Refused, UsageError

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


def test_undo_and_clear(kept: Conversations) -> None:
    conversation = talk(kept, ALICE, ("one", "1"), ("two", "2"))
    assert kept.undo(ALICE, conversation) == "two"
    assert said(kept, ALICE, conversation) == [("user", "one"), ("assistant", "1")]
    assert kept.undo(ALICE, conversation) == "one"
    assert kept.undo(ALICE, conversation) == ""
    assert kept.last_question(ALICE, conversation) == 0
    talk(kept, ALICE, ("three", "3"))
    kept.save_settings(ALICE, conversation, system="Keep me", sampling=Sampling())
    kept.clear(ALICE, conversation)
    assert said(kept, ALICE, conversation) == []
    assert kept.current(ALICE).system == "Keep me"


def test_only_the_reply_to_the_last_question_is_made_anew(kept: Conversations) -> None:
    conversation = talk(kept, ALICE, ("one", "1"), ("two", "2"))
    first, second = (one.id for one in kept.messages(ALICE, conversation) if one.role == "user")
    for message in (0, first, 999):
        with pytest.raises(UsageError, match="cannot be changed"):
            kept.regenerate(ALICE, conversation, message, model="toy")
    assert said(kept, ALICE, conversation)[-1] == ("assistant", "2")
    assert kept.last_question(ALICE, conversation) == second
    assert [one.content for one in kept.turns(ALICE, conversation, until=second)] == ["one", "1", "two"]
    kept.regenerate(ALICE, conversation, second, model="toy").finish("two!", Finish.STOP)
    assert said(kept, ALICE, conversation)[2:] == [("user", "two"), ("assistant", "two!")]


def test_the_title_is_what_was_said_first_and_nothing_older(kept: Conversations) -> None:
    conversation = talk(kept, ALICE, ("one\n  two", "1"), ("three", "3"))
    assert kept.current(ALICE).title == "one two"
    kept.edit(ALICE, conversation, kept.messages(ALICE, conversation)[0].id, "four")
    assert kept.current(ALICE).title == "four"
    kept.undo(ALICE, conversation)
    assert kept.current(ALICE).title == ""


def test_what_one_owner_keeps_is_bounded_in_bytes(kept: Conversations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_OWNER_BYTES", 3000)
    conversation = talk(kept, ALICE, ("字" * 900, "1"))
    before = said(kept, ALICE, conversation)
    for add in (
        lambda: kept.append(ALICE, conversation, "字" * 900),
        lambda: kept.edit(ALICE, conversation, kept.messages(ALICE, conversation)[0].id, "字" * 1001),
    ):
        with pytest.raises(UsageError, match=r"full: it may take 3\.0 kB"):
            add()
    assert said(kept, ALICE, conversation) == before
    kept.append(BOB, kept.current(BOB).id, "字" * 900)
    kept.clear(ALICE, conversation)
    kept.append(ALICE, conversation, "字" * 900)


def test_a_full_file_takes_nothing_more_until_something_goes(
    kept: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_DATABASE_BYTES", 200_000)
    his, hers = kept.current(BOB).id, kept.current(ALICE).id
    kept.append(BOB, his, "x" * 150_000)
    with pytest.raises(MachineError, match="200 kB"):
        kept.append(ALICE, hers, "y" * 60_000)
    with pytest.raises(MachineError, match="200 kB"):
        kept.save_settings(ALICE, hers, system="字" * MAX_SYSTEM, sampling=Sampling())
    assert said(kept, ALICE, hers) == []
    kept.clear(BOB, his)
    kept.append(ALICE, hers, "y" * 60_000)


EVERY_CALL: dict[str, Callable[[Conversations, str, str, int], object]] = {
    "get": lambda kept, owner, it, _: kept.get(owner, it),
    "messages": lambda kept, owner, it, _: kept.messages(owner, it),
    "turns": lambda kept, owner, it, _: kept.turns(owner, it),
    "append": lambda kept, owner, it, _: kept.append(owner, it, "mine now"),
    "begin_reply": lambda kept, owner, it, _: kept.begin_reply(owner, it, model="toy"),
    "edit": lambda kept, owner, it, message: kept.edit(owner, it, message, "forged"),
    "undo": lambda kept, owner, it, _: kept.undo(owner, it),
    "regenerate": lambda kept, owner, it, message: kept.regenerate(owner, it, message, model="toy"),
    "last_question": lambda kept, owner, it, _: kept.last_question(owner, it),
    "clear": lambda kept, owner, it, _: kept.clear(owner, it),
    "save_settings": lambda kept, owner, it, _: kept.save_settings(owner, it, system="x", sampling=Sampling()),
}


@pytest.mark.parametrize("call", EVERY_CALL)
def test_somebody_elses_conversation_is_not_found(kept: Conversations, call: str) -> None:
    conversation = talk(kept, ALICE, ("secret", "answer"))
    before = (kept.current(ALICE), kept.messages(ALICE, conversation))
    with pytest.raises(UsageError) as foreign:
        EVERY_CALL[call](kept, BOB, conversation, before[1][0].id)
    with pytest.raises(UsageError) as unknown:
        EVERY_CALL[call](kept, BOB, "no-such-id", before[1][0].id)
    assert foreign.value.to_json() == unknown.value.to_json()
    assert (kept.current(ALICE), kept.messages(ALICE, conversation)) == before


def test_every_public_call_with_a_conversation_is_in_the_table() -> None:
    public = {name for name in vars(Conversations) if not name.startswith("_")}
    assert public - set(EVERY_CALL) == {"current", "settle", "close", "notice"}


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
    with pytest.raises(UsageError, match=f"{MAX_SYSTEM:,}"):
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


def test_the_oldest_empty_conversations_go_first(kept: Conversations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MAX_EMPTY", 5)
    talk(kept, ALICE, ("one", "1"))
    for number in range(20):
        kept.current(f"visitor {number}")
    with kept._database.transaction() as db:
        left = [owner for (owner,) in db.execute("SELECT owner FROM conversations ORDER BY rowid")]
    assert left == [ALICE, *(f"visitor {number}" for number in range(15, 20))]


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
