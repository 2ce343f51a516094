"""An unfinished file: bytes in any order, killed, damaged, after a power cut; only right bytes are ever published."""

import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import MachineError
from backend.sources import progress_journal
from backend.sources.chain import Chain
from backend.sources.extents import Extents
from backend.sources.listing import RemoteFile
from backend.sources.part import Part, State
from backend.sources.progress_journal import read_journal

MARK = 1000
DATA = random.Random(1).randbytes(10_500)
FILE = RemoteFile("w.bin", len(DATA), "https://x/w.bin", sha256=hashlib.sha256(DATA).hexdigest())


def put(part: Part, start: int, stop: int, data: bytes = DATA) -> None:
    part.write(start, data[start:stop])
    part.record(start, stop)


def sum_up(part: Part) -> State:
    while part.sum_up():
        pass
    return part.state()


def opened(folder: Path) -> Part:
    return Part(folder, FILE, mark=MARK)


def finish(part: Part, folder: Path) -> None:
    """Fetch what is missing until it is right, and publish it."""
    for _ in range(20):
        for start, stop in part.gaps():
            put(part, start, stop)
        if sum_up(part) is State.RIGHT:
            break
    part.publish(folder)
    assert (folder / FILE.name).read_bytes() == DATA
    assert sorted(path.name for path in folder.iterdir()) == [FILE.name]


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(11)), st.integers(0, 11))
def test_any_order_and_a_kill_anywhere_end_the_same(order: list[int], kill: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        part = opened(folder)
        for number, piece in enumerate(order):
            if number == kill:
                sum_up(part)
                part.close()
                part = opened(folder)
                assert part.done == sum(min(1000, len(DATA) - 1000 * piece) for piece in order[:number])
            put(part, 1000 * piece, min(1000 * (piece + 1), len(DATA)))
        assert part.gaps() == []
        finish(part, folder)


def test_a_flipped_byte_that_came_is_found_by_a_second_copy(tmp_path: Path) -> None:
    bad = bytearray(DATA)
    bad[4321] ^= 1
    part = opened(tmp_path)
    put(part, 0, len(DATA), bytes(bad))
    assert sum_up(part) is State.GROWING
    assert part.comparing
    assert part.gaps() == [(0, len(DATA))]
    put(part, 0, 4000)
    assert sum_up(part) is State.GROWING
    put(part, 4000, 5000)
    assert part.repaired == 1000
    assert part.gaps() == []  # the sum may be right now: nothing more is fetched until that is known
    assert sum_up(part) is State.RIGHT
    finish(part, tmp_path)


def test_a_second_copy_that_is_the_wrong_one_is_found_by_a_third(tmp_path: Path) -> None:
    bad, worse = bytearray(DATA), bytearray(DATA)
    bad[4321] ^= 1
    worse[100] ^= 1
    part = opened(tmp_path)
    put(part, 0, len(DATA), bytes(bad))
    sum_up(part)
    put(part, 0, 1000, bytes(worse))
    assert sum_up(part) is State.GROWING
    finish(part, tmp_path)


def test_the_same_wrong_bytes_twice_are_wrong(tmp_path: Path) -> None:
    bad = bytes(len(DATA))
    part = opened(tmp_path)
    put(part, 0, len(DATA), bad)
    sum_up(part)
    put(part, 0, len(DATA), bad)
    assert sum_up(part) is State.WRONG
    part.discard()
    part.close()
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_survives_a_kill(tmp_path: Path) -> None:
    part = opened(tmp_path)
    put(part, 0, len(DATA), bytes(1) + DATA[1:])
    sum_up(part)
    put(part, 2000, 5000)
    part.close()
    part = opened(tmp_path)
    sum_up(part)
    assert part.comparing
    assert part.gaps() == [(0, 2000), (5000, len(DATA))]
    finish(part, tmp_path)


def test_damage_during_a_comparison_does_not_block_it(tmp_path: Path) -> None:
    part = opened(tmp_path)
    put(part, 0, len(DATA), bytes(1) + DATA[1:])
    sum_up(part)
    put(part, 2000, 5000)
    part.close()
    with (tmp_path / "w.bin.part").open("r+b") as file:
        file.seek(3500)
        file.write(b"\0" * 7)
    finish(opened(tmp_path), tmp_path)


def test_what_the_disk_lost_costs_its_piece_only(tmp_path: Path) -> None:
    part = opened(tmp_path)
    put(part, 0, 9000)
    sum_up(part)
    part.close()
    with (tmp_path / "w.bin.part").open("r+b") as file:
        for offset in (2500, 6100):
            file.seek(offset)
            file.write(b"\0" * 7)
    part = opened(tmp_path)
    sum_up(part)
    assert part.gaps() == [(2000, 3000), (9000, len(DATA))]
    put(part, 2000, 3000)
    sum_up(part)
    assert part.gaps() == [(6000, 7000), (9000, len(DATA))]
    finish(part, tmp_path)


def test_after_a_power_cut_only_what_can_be_proven_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = opened(tmp_path)
    put(part, 0, 5500)
    put(part, 8000, 9000)
    sum_up(part)
    part.close()
    monkeypatch.setattr(progress_journal, "boot_id", lambda: "the next one")
    with (tmp_path / "w.bin.part").open("r+b") as file:  # what had not reached the disk
        file.seek(3000)
        file.write(b"\0" * 2500)
    part = opened(tmp_path)
    assert part.gaps() == [(5000, len(DATA))]
    sum_up(part)
    assert part.gaps()[0] == (3000, 4000)
    finish(part, tmp_path)


@pytest.mark.parametrize("harm", ["cut", "torn", "junk", "other", "empty", "zeros"])
def test_a_harmed_journal_never_blocks_and_never_lies(tmp_path: Path, harm: str) -> None:
    part = opened(tmp_path)
    put(part, 0, 3000)
    put(part, 4000, 6000)
    sum_up(part)
    part.close()
    journal = tmp_path / "w.bin.journal"
    text = journal.read_bytes()
    journal.write_bytes({
        "cut": text[: len(text) // 2],
        "torn": text + b"+ 9000 105",
        "junk": text + b"+ 9000 99999999\n+ 7000 8000\nhello\n",
        "other": text.replace(b"cria-fetch 1", b"cria-fetch 9"),
        "empty": b"",
        "zeros": text + bytes(4096),
    }[harm])  # fmt: skip
    part = opened(tmp_path)
    assert part.done <= 5000
    finish(part, tmp_path)


def test_a_part_that_became_shorter_is_fetched_again_from_there(tmp_path: Path) -> None:
    part = opened(tmp_path)
    put(part, 0, 6000)
    part.close()
    os.truncate(tmp_path / "w.bin.part", 2500)
    part = opened(tmp_path)
    assert part.gaps() == [(2500, len(DATA))]
    finish(part, tmp_path)


def test_another_version_starts_over(tmp_path: Path) -> None:
    part = opened(tmp_path)
    put(part, 0, 6000)
    part.close()
    known = read_journal(tmp_path / "w.bin.journal", FILE.size, "sha256:other")
    assert known.have.total == 0


def test_a_failed_sync_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = opened(tmp_path)
    put(part, 0, len(DATA))
    sum_up(part)

    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MachineError):
        part.publish(tmp_path)
    part.close()
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=200), st.integers(1, 40), st.lists(st.integers(0, 200), max_size=4), st.booleans())
def test_a_sum_can_go_back_and_come_again(data: bytes, mark: int, back: list[int], git: bool) -> None:
    chain = Chain(len(data), git=git, mark=mark)
    for offset in [*back, None]:
        while chain.position < len(data):
            chain.update(memoryview(data)[chain.position : min(chain.next_mark, chain.position + 7)])
        if offset is not None:
            chain.rewind(offset)
            assert chain.position <= max(offset, 0) or offset >= len(data)
    prefix = b"blob %d\0" % len(data)
    assert chain.digest() == (hashlib.sha1(prefix + data) if git else hashlib.sha256(data)).hexdigest()


def test_a_journal_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_journal, "_LONG", 300)
    part = opened(tmp_path)
    for offset in range(0, len(DATA), 50):
        put(part, offset, offset + 50)
        assert (tmp_path / "w.bin.journal").stat().st_size < 700
    part.close()
    part = opened(tmp_path)
    assert part.gaps() == []
    finish(part, tmp_path)


def test_spans_of_a_journal_are_what_was_recorded(tmp_path: Path) -> None:
    part = opened(tmp_path)
    put(part, 100, 300)
    put(part, 200, 700)
    part.close()
    known = read_journal(tmp_path / "w.bin.journal", FILE.size, FILE.identity)
    assert list(known.have) == list(Extents([(100, 700)]))
