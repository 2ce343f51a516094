"""Long conversations made straight in the database, because typing them would take minutes."""

import sqlite3
from pathlib import Path

from backend.conversations import Conversations, StoredMessage
from backend.engines.base import Finish, Sampling, Usage

_MINE = "SELECT owner, id FROM conversations WHERE id IN (SELECT conversation FROM messages)"


def words(count: int) -> str:
    """Return a text of so many numbered words, four characters each with the space, a paragraph every hundred."""
    paragraphs = range(0, count, 100)
    return "\n\n".join(" ".join(f"{n % 1000:03d}" for n in range(p, min(p + 100, count))) for p in paragraphs)


def last_message(data_dir: Path) -> StoredMessage:
    """Return the newest message of the one conversation that has any."""
    with sqlite3.connect(data_dir / "cria.sqlite") as file:
        owner, conversation = file.execute(_MINE).fetchone()
    file.close()
    store = Conversations(data_dir / "cria.sqlite")
    newest = store.messages(owner, conversation)[-1]
    store.close()
    return newest


def fill_history(data_dir: Path, *, turns: int, length: int = 5, longest: int = 512) -> None:
    """Add questions and answers of ``length`` words to the one conversation that has messages.

    ``longest`` becomes its limit for a reply, in tokens.
    """
    with sqlite3.connect(data_dir / "cria.sqlite") as file:
        owner, conversation = file.execute(_MINE).fetchone()
    file.close()
    store = Conversations(data_dir / "cria.sqlite")
    store.save_settings(owner, conversation, system="", sampling=Sampling(max_new_tokens=longest))
    for turn in range(turns):
        store.append(owner, conversation, f"Question {turn}: {words(length)}")
        growing = store.begin_reply(owner, conversation, model="toy")
        growing.finish(f"Answer {turn}. {words(length)}", Finish.STOP, Usage(10, length, 0.1, 1.0))
    store.close()
