"""The file itself: private, versioned, and never lost when damaged, locked, full or read-only."""

import logging
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backend.conversations import Conversations, database
from backend.conversations.database import SCHEMAS, VERSION, Database
from backend.engines.base import Finish
from backend.errors import MachineError
from backend.settings import ROOT

ALICE = "a" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cria.sqlite"


@pytest.fixture
def kept(path: Path) -> Iterator[Conversations]:
    made = Conversations(path)
    yield made
    made.close()


def test_making_the_value_touches_nothing(path: Path) -> None:
    Conversations(path)
    assert not path.exists()


def test_all_files_are_private(path: Path, kept: Conversations) -> None:
    kept.append(ALICE, kept.current(ALICE).id, "secret")
    files = sorted(path.parent.iterdir())
    assert {file.name for file in files} >= {"cria.sqlite", "cria.sqlite-wal"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_file_others_could_read_is_made_private(path: Path, kept: Conversations) -> None:
    path.touch(mode=0o644)
    path.chmod(0o644)
    kept.current(ALICE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("how", ["clear", "undo", "edit", "regenerate"])
def test_what_was_taken_away_is_gone_from_every_file_at_once(path: Path, kept: Conversations, how: str) -> None:
    conversation = kept.current(ALICE).id
    kept.append(ALICE, conversation, "kept")
    secret = kept.append(ALICE, conversation, "a question" if how == "regenerate" else "MARKED-SECRET " * 2000)
    reply = kept.begin_reply(ALICE, conversation, model="toy")
    for length in (10, 500, 2000):  # a reply that grows moves from page to page
        reply.finish("MARKED-SECRET " * length, Finish.STOP)

    def found() -> list[str]:
        return [file.name for file in path.parent.iterdir() if b"MARKED-SECRET" in file.read_bytes()]

    assert found()
    if how == "edit":
        kept.edit(ALICE, conversation, secret, "other words")
    elif how == "regenerate":
        kept.regenerate(ALICE, conversation, secret, model="toy")
    else:
        getattr(kept, how)(ALICE, conversation)
    assert found() == []


def test_clearing_succeeds_while_another_process_reads(
    path: Path, kept: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_WAIT_S", 0.05)
    conversation = kept.current(ALICE).id
    kept.append(ALICE, conversation, "one")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM messages").fetchone() == (1,)
        kept.clear(ALICE, conversation)
        other.execute("ROLLBACK")
    assert kept.messages(ALICE, conversation) == ()


DAMAGES = {
    "not a database": lambda whole: b"this is no database at all, but somebody's notes" * 50,
    "cut": lambda whole: whole[: len(whole) // 2],
    "scrambled": lambda whole: whole[:4096] + bytes(255 - byte for byte in whole[4096:]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_kept_aside_and_said(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    kept = Conversations(path)
    for number in range(50):
        kept.append(ALICE, kept.current(ALICE).id, f"{number} " * 300)
    kept.close()
    spoiled = DAMAGES[damage](path.read_bytes())
    path.write_bytes(spoiled)

    with caplog.at_level(logging.ERROR, "cria.conversations"):
        again = Conversations(path)
        assert again.messages(ALICE, again.current(ALICE).id) == ()
    again.close()
    (aside,) = path.parent.glob("cria.sqlite.damaged-*")
    assert aside.read_bytes() == spoiled
    assert again.notice is not None
    assert again.notice.params["kept"] == str(aside)
    assert str(aside) in caplog.text


def test_two_damaged_files_in_one_second_are_both_kept(path: Path) -> None:
    for spoiled in (b"first" * 1000, b"second" * 1000):
        path.write_bytes(spoiled)
        kept = Conversations(path, clock=lambda: 1e9)
        kept.current(ALICE)
        kept.close()
        path.unlink()
    assert {file.read_bytes()[:5] for file in path.parent.glob("*damaged-*")} == {b"first", b"secon"}


def test_damage_found_while_in_use_fails_once_and_then_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Conversations(path)
    kept.append(ALICE, kept.current(ALICE).id, "one")
    with pytest.raises(MachineError, match="kept as"), kept._database.transaction():
        raise database._damage()
    assert kept.notice is not None
    assert kept.messages(ALICE, kept.current(ALICE).id) == ()
    kept.close()
    assert len(list(path.parent.glob("*damaged-*"))) >= 1


def test_what_the_first_format_kept_is_still_there(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.executescript(SCHEMAS[0])
        other.execute("PRAGMA user_version=1")
        other.execute("INSERT INTO conversations (id, owner, created, turn) VALUES ('c', ?, 1, 1)", (ALICE,))
        other.execute("INSERT INTO messages (conversation, role, text, created) VALUES ('c', 'user', 'one', 1)")
    kept = Conversations(path)
    (message,) = kept.messages(ALICE, "c")
    assert (message.text, message.loras) == ("one", ())
    kept.begin_reply(ALICE, "c", model="toy", loras=(("pirate", 0.5),))
    kept.close()
    again = Conversations(path)
    assert again.messages(ALICE, "c")[-1].loras == (("pirate", 0.5),)
    again.close()


def test_a_newer_format_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version={VERSION + 1}")
    kept = Conversations(path)
    with pytest.raises(MachineError, match="newer Cria"):
        kept.current(ALICE)
    kept.close()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    assert not list(path.parent.glob("*damaged-*"))


def test_a_locked_file_is_said_and_works_again_afterwards(
    path: Path, kept: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_WAIT_S", 0.05)
    conversation = kept.current(ALICE).id
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MachineError, match="another program"):
            kept.append(ALICE, conversation, "one")
        other.execute("ROLLBACK")
    kept.append(ALICE, conversation, "one")
    assert len(kept.messages(ALICE, conversation)) == 1


def test_a_full_disk_is_said_and_nothing_is_half_written(kept: Conversations) -> None:
    conversation = kept.current(ALICE).id
    with kept._database.transaction() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(MachineError, match="full"):
        kept.append(ALICE, conversation, "x" * 100_000)
    assert kept.messages(ALICE, conversation) == ()
    assert kept.current(ALICE).title == ""
    kept.append(ALICE, conversation, "short")


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "c.sqlite", tmp_path / "folder"):
        with pytest.raises(MachineError, match="--data-dir"):
            Conversations(path).current(ALICE)


def test_a_read_only_database_is_said(path: Path) -> None:
    Conversations(path).current(ALICE)
    readonly = Database(path)
    readonly._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    with pytest.raises(MachineError, match="cannot be saved"), readonly.transaction() as db:
        db.execute("DELETE FROM conversations")
    readonly.close()


def test_a_failed_transaction_changes_nothing(kept: Conversations) -> None:
    conversation = kept.current(ALICE).id

    def fail() -> None:
        with kept._database.transaction() as db:
            db.execute("DELETE FROM conversations")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert kept.current(ALICE).id == conversation


def test_a_killed_process_loses_no_finished_message(path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from backend.conversations import Conversations
kept = Conversations(Path({str(path)!r}))
conversation = kept.current({ALICE!r}).id
for number in range(10):
    kept.append({ALICE!r}, conversation, f"message {{number}}")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -9
    again = Conversations(path)
    assert len(again.messages(ALICE, again.current(ALICE).id)) == 10
    again.close()
