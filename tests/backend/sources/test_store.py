"""Downloads on the disk: listed, deleted when nobody uses them, swept of what killed runs left; and their locks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.errors import Cancelled, SourceError
from backend.locks import is_locked
from backend.settings import ROOT
from backend.sources import lock, store
from backend.sources.listing import Listing, RemoteFile
from backend.sources.lock import Lock, acquire
from backend.sources.part import Part

REVISION = "1" * 40
FILES = (
    RemoteFile("a.bin", 4, "https://h/a.bin", sha256="0" * 64),
    RemoteFile("b.bin", 6, "https://h/b.bin", sha256="1" * 64),
)
LISTING = Listing("hf", "org/some--repo", REVISION, "https://h", FILES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = store.home(tmp_path, LISTING)
    (made / store.PARTS).mkdir(parents=True)
    return made


def complete(folder: Path) -> None:
    for file in FILES:
        (folder / file.name).write_bytes(b"x" * file.size)
    store.finish(folder, LISTING)


def test_the_manifest_makes_it_complete_and_a_touched_file_unmakes_it(folder: Path) -> None:
    assert not store.is_complete(folder, LISTING)
    complete(folder)
    assert store.is_complete(folder, LISTING)
    assert not (folder / store.PARTS).exists()
    os.utime(folder / "a.bin", ns=(1, 1))
    assert not store.is_complete(folder, LISTING)
    assert store.bytes_there(folder, LISTING) == 6


def test_a_damaged_manifest_is_no_manifest(folder: Path) -> None:
    complete(folder)
    (folder / store.MANIFEST).write_text("{", encoding="utf-8")
    assert not store.is_complete(folder, LISTING)


def test_proven_files_and_written_bytes_count(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"abcd")
    store.note_ready(folder, FILES[0])
    with (folder / store.PARTS / "ready").open("a") as file:
        file.write('{"name": "b.b')  # torn by a kill
    part = Part(folder / store.PARTS, FILES[1])
    part.write(0, b"12345")
    part.record(0, 5)
    part.close()
    assert store.bytes_there(folder, LISTING) == 9


def test_a_sweep_keeps_what_is_still_of_use(folder: Path) -> None:
    parts = folder / store.PARTS
    kept = ["b.bin.part", "b.bin.journal", "ready"]
    (folder / "a.bin").write_bytes(b"abcd")
    store.note_ready(folder, FILES[0])
    for name in (*kept[:2], "a.bin.part", "a.bin.journal", "z.bin.part", "b.bin.journal.new", "b.bin.adopted"):
        (parts / name).write_bytes(b"1")
    (folder / f"{store.MANIFEST}.part").write_bytes(b"1")
    store.sweep(folder, LISTING)
    assert sorted(path.name for path in parts.iterdir()) == sorted(kept)
    assert sorted(path.name for path in folder.iterdir()) == [store.PARTS, "a.bin"]


def test_downloads_are_listed_and_deleted(folder: Path, tmp_path: Path) -> None:
    part = Part(folder / store.PARTS, RemoteFile("big.bin", 10**9, "https://h/x", sha256="2" * 64))
    part.close()
    (found,) = store.list_downloads(tmp_path)
    assert (found.kind, found.repository, found.revision) == ("hf", "org/some--repo", REVISION)
    assert not found.is_complete
    assert found.bytes < 10**6  # a file with holes takes what is written of it
    complete(folder)
    (found,) = store.list_downloads(tmp_path)
    assert found.is_complete
    assert store.delete(tmp_path, folder) == found.bytes
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_download_is_not_deleted(folder: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path, folder.parent, tmp_path / ".." / "x", folder / store.PARTS):
        with pytest.raises(SourceError) as caught:
            store.delete(tmp_path, wrong)
        assert caught.value.key == "download.not_stored"
    assert folder.exists()


def never() -> bool:
    return False


def taken(path: Path) -> Lock:
    """Take a lock that is free."""
    waiting = acquire(path, cancelled=never)
    with pytest.raises(StopIteration) as got:
        next(waiting)
    assert isinstance(got.value.value, Lock)
    return got.value.value


def test_what_is_being_fetched_is_not_deleted_and_who_waits_knows_for_whom(folder: Path, tmp_path: Path) -> None:
    path = store.lock_path(folder)
    held = taken(path)
    assert is_locked(path)
    assert store.list_downloads(tmp_path)[0].in_use
    with pytest.raises(SourceError) as caught:
        store.delete(tmp_path, folder)
    assert caught.value.key == "download.in_use"
    waiting = acquire(path, cancelled=never)
    assert next(waiting).pid == os.getpid()
    held.release()
    held.release()
    with pytest.raises(StopIteration):
        next(waiting)
    with pytest.raises(Cancelled):
        list(acquire(_held_elsewhere(tmp_path / "x"), cancelled=lambda: True))


def _held_elsewhere(path: Path) -> Path:
    """Write what a process on another machine has left whose disk does not pass on locks."""
    path.write_text('{"pid": 7, "host": "another"}', encoding="utf-8")
    return path


def test_a_holder_on_another_machine_is_believed_until_it_falls_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _held_elsewhere(tmp_path / "x.lock")
    waiting = acquire(path, cancelled=never)
    assert next(waiting) == lock.Holder(7, "another")
    monkeypatch.setattr(lock, "_SILENT_S", 0.0)
    with pytest.raises(StopIteration):
        next(waiting)


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    code = (
        "import sys; from pathlib import Path; from backend.sources.lock import acquire\n"
        "held = []\n"
        "def take(): held.append((yield from acquire(Path(sys.argv[1]), cancelled=lambda: False)))\n"
        "list(take()); print('held', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "held"
    waiting = acquire(path, cancelled=never)
    assert next(waiting).pid == child.pid
    child.kill()
    child.communicate()
    with pytest.raises(StopIteration):
        next(waiting)
