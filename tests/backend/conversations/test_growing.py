"""A growing reply: saved once a second and at the end, and never written into a conversation that moved on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.conversations import Conversations, GrowingReply
from backend.conversations.growing import MAX_REPLY
from backend.engines.base import Finish

ALICE = "a" * 64


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Conversations]:
    made = Conversations(tmp_path / "cria.sqlite")
    yield made
    made.close()


@pytest.fixture
def conversation(kept: Conversations) -> str:
    found = kept.current(ALICE).id
    kept.append(ALICE, found, "a question")
    return found


def test_it_saves_at_most_once_a_second_and_at_the_end(kept: Conversations, conversation: str) -> None:
    clock = Clock()
    begun = kept.begin_reply(ALICE, conversation, model="toy")
    reply = GrowingReply(kept._database, begun.message, conversation, clock)
    saved = []
    for step in range(1, 31):  # ten steps a second
        clock.now = 100.0 + step / 10
        assert reply.grow("x" * step)
        saved.append(len(kept.messages(ALICE, conversation)[1].text))
    assert len(set(saved)) in {3, 4}  # saved at about 1, 2 and 3 seconds
    assert kept.messages(ALICE, conversation)[1].finish is None
    assert reply.finish("the whole", Finish.STOP)
    last = kept.messages(ALICE, conversation)[1]
    assert (last.text, last.finish) == ("the whole", Finish.STOP)


@pytest.mark.parametrize("how", ["undo", "regenerate", "clear", "edit"])
def test_a_writer_learns_that_its_reply_is_gone(kept: Conversations, conversation: str, how: str) -> None:
    clock = Clock()
    begun = kept.begin_reply(ALICE, conversation, model="toy")
    reply = GrowingReply(kept._database, begun.message, conversation, clock)
    if how == "edit":
        kept.edit(ALICE, conversation, kept.messages(ALICE, conversation)[0].id, "other words")
    elif how == "regenerate":
        kept.regenerate(ALICE, conversation, kept.last_question(ALICE, conversation), model="toy")
    else:
        getattr(kept, how)(ALICE, conversation)
    elsewhere = kept.current(ALICE).id
    if not kept.messages(ALICE, elsewhere):
        kept.append(ALICE, elsewhere, "next")
    newer = kept.begin_reply(ALICE, elsewhere, model="toy")
    clock.now += 2
    assert not reply.grow("late")
    assert not reply.finish("late", Finish.STOP)
    assert newer.finish("right", Finish.STOP)
    assert kept.messages(ALICE, elsewhere)[-1].text == "right"


def test_an_endless_reply_is_bounded(kept: Conversations, conversation: str) -> None:
    kept.begin_reply(ALICE, conversation, model="toy").finish("y" * (MAX_REPLY + 5), Finish.LENGTH)
    assert len(kept.messages(ALICE, conversation)[1].text) == MAX_REPLY
