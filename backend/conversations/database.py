"""One SQLite file for many threads: opened late, private, versioned; a damaged one is kept aside, never overwritten.

A single connection behind a lock: statements here take microseconds to a few milliseconds, so handing out connections
would buy nothing. Knows nothing about what the tables mean.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import MachineError
from backend.text import Message, tell

SCHEMAS = (  # each makes the next version out of the one before
    """
CREATE TABLE conversations (
    id       TEXT PRIMARY KEY,
    owner    TEXT NOT NULL,
    title    TEXT NOT NULL DEFAULT '',
    settings TEXT NOT NULL DEFAULT '{}',
    created  REAL NOT NULL,             -- seconds since 1970
    turn     INTEGER NOT NULL           -- grows with each use, so that a clock set back changes no order
);
CREATE INDEX conversations_by_owner ON conversations (owner, turn);
CREATE TABLE messages (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: a late writer cannot hit a new message
    conversation      TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    role              TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    text              TEXT NOT NULL,
    model             TEXT NOT NULL DEFAULT '',
    finish            TEXT,                               -- NULL while a reply grows
    prompt_tokens     INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    first_token_s     REAL NOT NULL DEFAULT 0,
    decode_s          REAL NOT NULL DEFAULT 0,
    created           REAL NOT NULL
);
CREATE INDEX messages_by_conversation ON messages (conversation, id);
""",
    "ALTER TABLE messages ADD COLUMN loras TEXT NOT NULL DEFAULT '[]'",  # JSON: [name, scale] of those that took part
)
VERSION = len(SCHEMAS)
_WAIT_S = 2.0  # for another process that writes just now
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_LOG = logging.getLogger("cria.conversations")


class Database:
    """The file. ``notice`` says what a person should know about it, once a damaged one had to be put aside."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self.notice: Message | None = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for a few statements; all of them count, or none.

        Raises:
            MachineError: the file cannot be used: locked, read-only, disk full, damaged, or made by a newer Cria.
        """
        with self._lock:
            try:
                connection = self._open()
                with _committed(connection):
                    yield connection
            except sqlite3.DatabaseError as problem:
                raise self._explained(problem) from problem

    def forget(self) -> None:
        """Empty the write-ahead log, which still holds what a finished transaction has overwritten in the file.

        If another process is reading just now, that happens at the next call or when the file is closed.
        """
        with self._lock:
            try:
                self._open().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.DatabaseError as problem:
                if _code(problem) not in _BUSY:
                    raise self._explained(problem) from problem

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._connect()
            except sqlite3.DatabaseError as problem:
                if _code(problem) not in _DAMAGED:
                    raise
                self._put_aside()
                self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        self._make_private_file()
        connection = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            # WAL: readers never wait; NORMAL: a killed process loses nothing; secure_delete: zeros over what goes.
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "secure_delete=ON"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise _damage()
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_private_file(self) -> None:
        """SQLite gives its side files the mode of the main file, so one mode is enough."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            self._path.chmod(0o600)
        except OSError as problem:
            raise MachineError("conversations.cannot_write", path=str(self._path), what=problem.strerror) from problem

    def _migrate(self, connection: sqlite3.Connection) -> None:
        with _committed(connection):
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found > VERSION:
                raise MachineError("conversations.newer", path=str(self._path), found=found, known=VERSION)
            for statement in ";".join(SCHEMAS[found:]).split(";"):
                connection.execute(statement)
            if found < VERSION:
                connection.execute(f"PRAGMA user_version={VERSION}")

    def _explained(self, problem: sqlite3.DatabaseError) -> MachineError:
        code = _code(problem)
        if code in _DAMAGED:
            return MachineError("conversations.damaged", kept=str(self._put_aside()))
        if code in _BUSY:
            return MachineError("conversations.locked", path=str(self._path))
        return MachineError("conversations.cannot_write", path=str(self._path), what=str(problem))

    def _put_aside(self) -> Path:
        """Rename the damaged file and its side files, so that nothing is lost and a fresh one can be made."""
        self.close()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self._clock()))
        kept = self._path.with_name(f"{self._path.name}.damaged-{stamp}")
        while kept.exists():
            kept = kept.with_name(f"{kept.name}x")
        for end in ("", "-wal", "-shm"):
            old = self._path.with_name(self._path.name + end)
            if old.exists():
                old.rename(kept.with_name(kept.name + end))
        self.notice = Message("conversations.damaged.say", {"kept": str(kept)})
        _LOG.error("%s", tell("en", self.notice))
        return kept


@contextmanager
def _committed(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _code(problem: sqlite3.Error) -> int:
    """Return SQLite's primary result code; the upper bits only say where."""
    return int(getattr(problem, "sqlite_errorcode", 0)) & 0xFF


def _damage() -> sqlite3.DatabaseError:
    problem = sqlite3.DatabaseError("quick_check found damage")
    problem.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return problem
