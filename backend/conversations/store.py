"""What a visitor's conversations are and what can be done to them. Every call names the owner, and every statement
checks it: somebody else's conversation is simply not found.

Knows nothing about how an owner is recognised: it gets an opaque name (the guard hands on a hash, never the cookie).
"""

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from backend.conversations.database import Database
from backend.conversations.growing import GrowingReply
from backend.conversations.records import (
    SELECT,
    SELECT_MESSAGES,
    Conversation,
    StoredMessage,
    read_conversation,
    read_message,
    storable,
)
from backend.engines.base import ChatMessage, Finish, Sampling
from backend.errors import MachineError, Refused, UsageError
from backend.text import Message

MAX_TEXT = 200_000  # characters of one message
MAX_SYSTEM = 20_000  # characters of a system prompt
MAX_MESSAGES = 1000  # in one conversation
MAX_OWNER_BYTES = 50 * 1000**2  # of all an owner's messages
MAX_DATABASE_BYTES = 2 * 1000**3  # in use in the whole file; beyond it nobody can add anything until something goes
_MAX_EMPTY = 2000  # conversations without a message, of everybody together: each new visitor begins with one
_TITLE = 80


class Conversations:
    """All conversations in one file. Safe to use from any thread; calls take about a millisecond.

    Every method may raise ``MachineError`` when the file cannot be used, and those that take a conversation raise
    ``UsageError`` (``conversations.unknown``) when this owner has none of that id.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path, clock)
        self._clock = clock

    @property
    def notice(self) -> Message | None:
        """What a person should know about the file: a damaged one was put aside (``None``: all is well)."""
        return self._database.notice

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # ---- conversations ----

    def current(self, owner: str) -> Conversation:
        """Return an owner's conversation; the first call makes it."""
        with self._of(owner) as db:
            row = db.execute(f"{SELECT} WHERE owner = ? ORDER BY turn DESC LIMIT 1", (owner,)).fetchone()
            return read_conversation(row) if row else self._new(db, owner)

    def get(self, owner: str, conversation: str) -> Conversation:
        """Return one conversation."""
        with self._found(owner, conversation) as db:
            return read_conversation(db.execute(f"{SELECT} WHERE id = ?", (conversation,)).fetchone())

    def save_settings(self, owner: str, conversation: str, *, system: str, sampling: Sampling) -> None:
        """Keep the system prompt and the sampling of a conversation.

        Raises:
            UsageError: the system prompt is longer than is kept.
            MachineError: all conversations together have reached their limit.
        """
        if len(system) > MAX_SYSTEM:
            raise UsageError("conversations.long_system", length=len(system), most=MAX_SYSTEM)
        kept = json.dumps({"system": storable(system), "sampling": asdict(sampling)})
        with self._found(owner, conversation) as db:
            db.execute("UPDATE conversations SET settings = ? WHERE id = ?", (kept, conversation))
            _check_file(db)

    # ---- messages ----

    def messages(self, owner: str, conversation: str) -> tuple[StoredMessage, ...]:
        """Return the turns in order."""
        with self._found(owner, conversation) as db:
            rows = db.execute(f"{SELECT_MESSAGES} WHERE conversation = ? ORDER BY id", (conversation,)).fetchall()
        return tuple(read_message(row) for row in rows)

    def turns(self, owner: str, conversation: str, *, until: int | None = None) -> tuple[ChatMessage, ...]:
        """Return what an engine should read: the system prompt, if any, and every turn that says something.

        ``until`` is the id of the last message to read.
        """
        system = self.get(owner, conversation).system
        first = (ChatMessage("system", system),) if system.strip() else ()
        said = [one for one in self.messages(owner, conversation) if one.text and (until is None or one.id <= until)]
        return first + tuple(ChatMessage(one.role, one.text) for one in said)

    def append(self, owner: str, conversation: str, text: str) -> int:
        """Add what a person says and return the message's id.

        Raises:
            UsageError: the text is empty or too long, or the conversation or the owner's share is full.
            MachineError: all conversations together have reached their limit.
        """
        _check_text(text)
        with self._found(owner, conversation) as db:
            message = self._add(db, conversation, "user", text)
            _retitle(db, conversation)
            _check_room(db, owner)
            return message

    def begin_reply(
        self, owner: str, conversation: str, *, model: str, loras: Sequence[tuple[str, float]] = ()
    ) -> GrowingReply:
        """Add an empty reply and return the hand that writes it. ``loras``: the attached adapters that take part.

        Raises:
            UsageError: the conversation is full.
        """
        with self._found(owner, conversation) as db:
            message = self._add(db, conversation, "assistant", "", model=model, loras=loras)
        return GrowingReply(self._database, message, conversation)

    def edit(self, owner: str, conversation: str, message: int, text: str) -> None:
        """Change what a person said, and drop everything after it.

        Raises:
            UsageError: there is no such message of a person here, or the text is empty, too long or too much.
            MachineError: all conversations together have reached their limit.
        """
        _check_text(text)
        with self._erasing(owner, conversation) as db:
            changed = db.execute(
                "UPDATE messages SET text = ? WHERE id = ? AND conversation = ? AND role = 'user'",
                (storable(text), message, conversation),
            )
            if changed.rowcount == 0:
                raise UsageError("conversations.not_yours_to_edit")
            db.execute("DELETE FROM messages WHERE conversation = ? AND id > ?", (conversation, message))
            _retitle(db, conversation)
            _check_room(db, owner)

    def undo(self, owner: str, conversation: str) -> str:
        """Drop the last thing a person said with its reply, and return it; "" when there is nothing to undo."""
        with self._erasing(owner, conversation) as db:
            asked, text = _last_question(db, conversation)
            if text:
                db.execute("DELETE FROM messages WHERE conversation = ? AND id >= ?", (conversation, asked))
                _retitle(db, conversation)
            return text

    def last_question(self, owner: str, conversation: str) -> int:
        """Return the id of the last thing a person said; 0 when nobody said anything."""
        with self._found(owner, conversation) as db:
            return _last_question(db, conversation)[0]

    def regenerate(
        self, owner: str, conversation: str, question: int, *, model: str, loras: Sequence[tuple[str, float]] = ()
    ) -> GrowingReply:
        """Put an empty reply in the place of the one to the last question; return the hand that writes it.

        Raises:
            UsageError: that is no longer the last question.
        """
        with self._erasing(owner, conversation) as db:
            if not question or _last_question(db, conversation)[0] != question:
                raise UsageError("conversations.not_yours_to_edit")
            db.execute("DELETE FROM messages WHERE conversation = ? AND id > ?", (conversation, question))
            message = self._add(db, conversation, "assistant", "", model=model, loras=loras)
        return GrowingReply(self._database, message, conversation)

    def clear(self, owner: str, conversation: str) -> None:
        """Drop every message; settings stay."""
        with self._erasing(owner, conversation) as db:
            db.execute("DELETE FROM messages WHERE conversation = ?", (conversation,))
            _retitle(db, conversation)

    def settle(self) -> int:
        """Mark replies that a stopped server left unfinished as cut off; return how many. Call once at server start."""
        with self._database.transaction() as db:
            left = "UPDATE messages SET finish = ? WHERE finish IS NULL AND role = 'assistant'"
            return db.execute(left, (Finish.ERROR.value,)).rowcount

    # ---- inside ----

    @contextmanager
    def _of(self, owner: str) -> Iterator[sqlite3.Connection]:
        if not owner:  # without a name, strangers would share one history
            raise Refused("conversations.nobody")
        with self._database.transaction() as db:
            yield db

    @contextmanager
    def _found(self, owner: str, conversation: str) -> Iterator[sqlite3.Connection]:
        with self._of(owner) as db:
            mine = db.execute("SELECT 1 FROM conversations WHERE id = ? AND owner = ?", (conversation, owner))
            if mine.fetchone() is None:
                raise UsageError("conversations.unknown")
            yield db

    @contextmanager
    def _erasing(self, owner: str, conversation: str) -> Iterator[sqlite3.Connection]:
        """Like ``_found``, for what takes text away: afterwards no copy of it is left in the files either."""
        with self._found(owner, conversation) as db:
            yield db
        self._database.forget()

    def _new(self, db: sqlite3.Connection, owner: str) -> Conversation:
        name = secrets.token_urlsafe(18)
        db.execute(
            "INSERT INTO conversations (id, owner, created, turn)"
            " SELECT ?, ?, ?, coalesce(max(turn), 0) + 1 FROM conversations WHERE owner = ?",
            (name, owner, self._clock(), owner),
        )
        db.execute(_PRUNE, (_MAX_EMPTY,))
        return read_conversation(db.execute(f"{SELECT} WHERE id = ?", (name,)).fetchone())

    def _add(
        self,
        db: sqlite3.Connection,
        conversation: str,
        role: str,
        text: str,
        *,
        model: str = "",
        loras: Sequence[tuple[str, float]] = (),
    ) -> int:
        count = db.execute("SELECT count(*) FROM messages WHERE conversation = ?", (conversation,)).fetchone()[0]
        if count + (2 if role == "user" else 1) > MAX_MESSAGES:  # a question leaves room for its reply
            raise UsageError("conversations.full", most=MAX_MESSAGES)
        made = db.execute(
            "INSERT INTO messages (conversation, role, text, model, loras, created) VALUES (?, ?, ?, ?, ?, ?)",
            (conversation, role, storable(text), model, json.dumps(loras), self._clock()),
        )
        return int(made.lastrowid or 0)


_PRUNE = """
DELETE FROM conversations WHERE id IN (
    SELECT id FROM conversations AS c WHERE NOT EXISTS (SELECT 1 FROM messages WHERE conversation = c.id)
    ORDER BY created DESC, rowid DESC LIMIT -1 OFFSET ?)
"""


def _last_question(db: sqlite3.Connection, conversation: str) -> tuple[int, str]:
    """Return id and text of the last thing a person said; (0, "") when nobody said anything."""
    row = db.execute(
        "SELECT id, text FROM messages WHERE conversation = ? AND role = 'user' ORDER BY id DESC LIMIT 1",
        (conversation,),
    ).fetchone()
    return (row[0], row[1]) if row else (0, "")


def _retitle(db: sqlite3.Connection, conversation: str) -> None:
    """Name a conversation after the first thing that is said in it now."""
    row = db.execute(
        "SELECT text FROM messages WHERE conversation = ? AND role = 'user' ORDER BY id LIMIT 1", (conversation,)
    ).fetchone()
    title = " ".join(row[0][: 4 * _TITLE].split())[:_TITLE] if row else ""
    db.execute("UPDATE conversations SET title = ? WHERE id = ?", (title, conversation))


def _check_room(db: sqlite3.Connection, owner: str) -> None:
    """Make sure that neither an owner nor everybody together keeps too much; whatever was added is then taken back."""
    used = db.execute(
        "SELECT coalesce(sum(length(CAST(text AS BLOB))), 0) FROM messages"
        " WHERE conversation IN (SELECT id FROM conversations WHERE owner = ?)",
        (owner,),
    ).fetchone()[0]
    if used > MAX_OWNER_BYTES:
        raise UsageError("conversations.owner_full", most=MAX_OWNER_BYTES)
    _check_file(db)


def _check_file(db: sqlite3.Connection) -> None:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    if (pages - free) * size > MAX_DATABASE_BYTES:
        raise MachineError("conversations.file_full", most=MAX_DATABASE_BYTES)


def _check_text(text: str) -> None:
    if not text.strip():
        raise UsageError("conversations.empty")
    if len(text) > MAX_TEXT:
        raise UsageError("conversations.too_long", length=len(text), most=MAX_TEXT)
