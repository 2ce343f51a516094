"""A file on its way to the disk: what it holds, its hash, and the disk's refusals, early and late."""

import ctypes
import errno
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from backend.weights import writeback
from backend.weights.sink import Sink
from backend.weights.writeback import WriteBack


def test_a_file_gets_its_name_with_its_hash(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    wanted = b"head" + numbers.T.tobytes()
    with Sink(tmp_path / "a.part", len(wanted)) as sink:
        assert sink.write(b"head") == 4
        assert sink.write_slab(numbers.T) == 48
        assert not (tmp_path / "a").exists()
        assert sink.publish(tmp_path / "a") == hashlib.sha256(wanted).hexdigest()
    assert (tmp_path / "a").read_bytes() == wanted
    assert not (tmp_path / "a.part").exists()


def test_what_was_not_published_keeps_the_name_of_a_part(tmp_path: Path) -> None:
    def write_some() -> None:
        with Sink(tmp_path / "a.part", 8) as sink:
            sink.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_some()
    assert [path.name for path in tmp_path.iterdir()] == ["a.part"]


class FakeDisk:
    """Stands for the system call; notes (start, flags) and fails with ``problem`` where that is set."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.problem = 0

    def __call__(self, descriptor: int, start: int, count: int, flags: int) -> int:
        self.calls.append((start, flags))
        ctypes.set_errno(self.problem)
        return -1 if self.problem else 0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FakeDisk:
    fake = FakeDisk()
    monkeypatch.setattr(writeback, "_system_call", lambda: fake)
    monkeypatch.setattr(writeback, "_PORTION", 10)
    monkeypatch.setattr(writeback, "_UNDER_WAY", 2)
    return fake


def test_every_portion_is_sent_once_and_awaited_later(disk: FakeDisk) -> None:
    follower = WriteBack(3)
    for size in (4, 9, 25, 26, 47):
        follower.wrote(size)
    sent = [start for start, flags in disk.calls if flags == 2]
    awaited = [start for start, flags in disk.calls if flags == 7]
    assert sent == [0, 10, 20, 30]
    assert awaited == [0, 10]
    assert disk.calls.index((10, 7)) > disk.calls.index((30, 2))


def test_a_disk_that_lost_bytes_is_not_passed_over(disk: FakeDisk) -> None:
    disk.problem = errno.EIO
    with pytest.raises(OSError, match="rror") as refused:
        WriteBack(3).wrote(10)
    assert refused.value.errno == errno.EIO


def test_a_file_system_that_cannot_is_left_alone(disk: FakeDisk) -> None:
    disk.problem = errno.EINVAL
    WriteBack(3).wrote(10)
    assert disk.calls == [(0, 2)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the call")
def test_the_real_call_takes_a_real_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writeback, "_FAILED", range(1, 200))
    call = writeback._system_call()
    assert call is not None
    with (tmp_path / "a").open("wb") as file:
        file.write(b"x" * 10_000)
        file.flush()
        assert call(file.fileno(), 0, 10_000, 7) == 0
    assert call(file.fileno() if not file.closed else 10**6, 0, 1, 2) == -1
