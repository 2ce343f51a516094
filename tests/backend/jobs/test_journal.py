"""The journal: whole lines only, whatever a crash left behind; an ending even on a full disk."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.jobs.journal import JournalReader, JournalWriter


def test_a_reader_follows_a_growing_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    reader = JournalReader(path)
    assert reader.new_lines() == []
    writer = JournalWriter(path)
    writer.write("run", pid=1)
    assert [event["e"] for event in reader.new_lines()] == ["run"]
    writer.write("log", message={"key": "中文"})
    assert reader.new_lines()[0]["message"]["key"] == "中文"
    assert reader.new_lines() == []
    writer.close()


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    reader = JournalReader(path)
    path.write_bytes(b'{"e":"run"}\n{"e":"st')
    assert [event["e"] for event in reader.new_lines()] == ["run"]
    with path.open("ab") as file:
        file.write(b'ep"}\n')
    assert [event["e"] for event in reader.new_lines()] == ["step"]


@given(cut=st.integers(0, 60))
def test_a_crash_at_any_byte_loses_at_most_the_last_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    whole = b'{"e":"run","pid":7}\n{"e":"step","id":"merge"}\n{"e":"x"}\n'
    path.write_bytes(whole[: min(cut, len(whole))])
    writer = JournalWriter(path)
    writer.write("run", pid=8)
    writer.close()
    events = JournalReader(path).new_lines()
    assert events[-1] == {"e": "run", "pid": 8}
    assert len(events) == whole[:cut].count(b"\n") + 1 + (whole[:cut][-1:] == b"}")


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"[1]\n", b'"e"\n', b"{}\n", b'{"e": 5}\n', b"\n\n"])
def test_a_damaged_line_is_skipped(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"e":"run"}\n' + junk + b'{"e":"done"}\n')
    assert [event["e"] for event in JournalReader(path).new_lines()] == ["run", "done"]


def test_a_full_disk_loses_progress_and_no_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    writer, write = JournalWriter(path), os.write

    def full(file: int, data: bytes) -> int:
        """Refuse, after half a line, for as long as nothing was given up."""
        if len(list(tmp_path.iterdir())) == 1:
            return write(file, data)
        write(file, data[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    writer.write("progress", id="merge", m=1.0, done=1, total=2)
    with pytest.raises(OSError, match="space"):
        writer.write("step_done", id="merge")
    writer.write("failed", error={"kind": "MachineError"})
    writer.close()
    assert JournalReader(path).new_lines() == [{"e": "failed", "error": {"kind": "MachineError"}}]
    assert list(tmp_path.iterdir()) == [path]
