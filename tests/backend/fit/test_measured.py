"""What is remembered of a machine: kept whole or not at all, and forecasts that learn from it."""

import json
from pathlib import Path

import pytest

from backend.fit.measured import FILE, GPU, RAM, Load, Measured, Memo, Speeds
from backend.fit.memory import Correction
from backend.fit.speeds import is_busy, measure


def load(model: str, predicted: int, measured: int, *, kind: str = RAM, correction: int = 0) -> Load:
    return Load(model, "cpu 0 16", predicted, measured, kind, correction, 5.0)


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    memo = Memo(tmp_path)
    assert memo.read() == Measured()
    speeds = Speeds(5e8, 3e8, None, 7.0)
    memo.keep_speeds(speeds)
    memo.keep_load(load("one", 10, 12))
    memo.keep_load(load("two", 20, 21))
    memo.keep_load(load("one", 11, 13))  # in place of the first
    assert Memo(tmp_path).read() == Measured(speeds, (load("two", 20, 21), load("one", 11, 13)))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', '{"speeds": 3}', '{"speeds": {"at": "x"}}', '{"version": 2, "loads": [{}]}',
     '{"version": 2, "loads": 7}', "[" * 100_000, '{"loads": {"a": 1}, "version": 2}'],
)  # fmt: skip
def test_a_damaged_file_is_an_empty_one_and_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    memo = Memo(tmp_path)
    assert memo.read() == Measured()
    memo.keep_load(load("one", 1, 2))
    assert memo.read().loads == (load("one", 1, 2),)


def test_speeds_that_cannot_be_are_unknown(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"speeds": {"read": -1, "write": 1e300, "memory": "fast", "at": 3}}')
    assert Memo(tmp_path).read().speeds == Speeds(None, None, None, 3.0)


def test_loads_of_an_older_arithmetic_say_nothing(tmp_path: Path) -> None:
    memo = Memo(tmp_path)
    memo.keep_load(load("one", 1, 2))
    data = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**data, "version": 0}))
    assert memo.read().loads == ()


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path) -> None:
    Memo(tmp_path / "absent").keep_load(load("one", 1, 2))


def test_the_correction_is_what_forecasts_are_usually_off_by() -> None:
    off = [load(str(index), 1000, 1000 + error * 1_000_000) for index, error in enumerate((50, 70, 900))]
    assert Measured(loads=tuple(off)).correction() == Correction(ram=70_000_000)
    again = load("again", 70_001_000, 75_001_000, correction=70_000_000)  # the forecast had it in already
    assert Measured(loads=(*off, again)).correction().ram == 72_500_000
    gpu = load("gpu", 10**9, 9 * 10**9, kind=GPU)
    assert Measured(loads=(*off, gpu)).correction() == Correction(
        ram=70_000_000, gpu=1_500_000_000
    )  # a mistake, not overhead
    assert Measured().correction() == Correction()


def test_a_forecast_that_learns_comes_nearer() -> None:
    plain, held, known = 1_000_000_000, 1_040_000_000, Measured()
    errors = []
    for turn in range(4):
        correction = known.correction().ram
        errors.append(abs(held - (plain + correction)))
        known = Measured(loads=(*known.loads, load(str(turn), plain + correction, held, correction=correction)))
    assert errors == [40_000_000, 0, 0, 0]


def test_measuring_leaves_nothing_behind(tmp_path: Path) -> None:
    speeds = measure(tmp_path, now=lambda: 3.0)
    assert speeds.at == 3.0
    assert speeds.write is not None
    assert speeds.memory is not None
    assert min(speeds.write, speeds.memory) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("load", "busy"), [(3.9, False), (4.1, True)])
def test_a_machine_with_more_to_do_than_cores_is_busy(monkeypatch: pytest.MonkeyPatch, load: float, busy: bool) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    assert is_busy() is busy


def test_a_disk_that_cannot_be_written_has_no_speed(tmp_path: Path) -> None:
    speeds = measure(tmp_path / "absent")
    assert (speeds.read, speeds.write) == (None, None)
    assert speeds.memory is not None


def test_what_one_load_differs_from_the_next_by_is_not_learned() -> None:
    near = [load(str(index), 160_000_000, 160_000_000 - off) for index, off in enumerate((9_000_000, 15_000_000))]
    assert Measured(loads=tuple(near)).correction() == Correction()
