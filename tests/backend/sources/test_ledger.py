"""Removing what nothing needs: only what is the job's own, and remembered before it goes."""

import os
from pathlib import Path

import pytest

from backend.sources.extents import Extents
from backend.sources.ledger import Ledger, is_ledger

DATA = bytes(range(256)) * 40
SEEN = Extents([(0, 100), (5000, 5100)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "downloads" / "hf" / "a--b" / "rev" / "model.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    return path


def ledger(file: Path, *here: Path) -> Ledger:
    return Ledger(file.parents[4] / "ledger", file.parents[3], here=here)


def test_a_removed_file_is_remembered_where_it_was_read(file: Path, tmp_path: Path) -> None:
    assert not is_ledger(tmp_path / "ledger")
    made = ledger(file)
    assert is_ledger(tmp_path / "ledger")
    assert made.remove(file, SEEN)
    assert not file.exists()
    later = ledger(file)  # another run
    assert later.is_removed(file)
    assert list(later.remembered(file)) == list(SEEN)
    stand_in = tmp_path / "stand-in"
    stand_in.write_bytes(bytes(len(DATA)))
    later.recall(file, stand_in)
    found = stand_in.read_bytes()
    assert found[:100] == DATA[:100]
    assert found[5000:5100] == DATA[5000:5100]
    assert not any(found[100:5000])


def test_what_is_not_the_jobs_own_stays(file: Path) -> None:
    made = ledger(file, file)
    assert not made.is_own(file)
    assert not made.remove(file, SEEN)
    assert not ledger(file).remove(file, SEEN)  # what is there in a later run says nothing
    assert file.exists()


def test_what_another_name_shares_stays(file: Path) -> None:
    os.link(file, file.with_name("other"))  # as a file of the Hugging Face cache is
    assert not ledger(file).remove(file, SEEN)
    assert file.exists()


def test_what_would_have_to_be_remembered_whole_stays(file: Path) -> None:
    assert not ledger(file).remove(file, Extents([(0, len(DATA) // 4)]))
    assert file.exists()


def test_a_crash_before_the_last_moment_is_made_good(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ledger(file)

    def crash(_: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            made.remove(file, SEEN)
    assert file.exists()
    later = ledger(file)
    later.tidy([file])
    assert not file.exists()
    later.restore(file)
    assert not ledger(file).is_removed(file)


@pytest.mark.parametrize("damage", ["", "[]", '{"before": 3}', '{"before": [], "removed": {"x": 1}}'])
def test_a_damaged_ledger_removes_nothing(file: Path, tmp_path: Path, damage: str) -> None:
    ledger(file, file)
    (tmp_path / "ledger" / "ledger.json").write_text(damage)
    later = ledger(file, file)
    assert not later.is_removed(file)
    assert not later.is_own(file)
