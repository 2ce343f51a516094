"""RAM within the limits of control groups: which of them count, and that cached files are no burden."""

from pathlib import Path

import psutil
import pytest

from backend import ram

GB = 10**9


def _group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def _new(limit: object, held: int, files: int = 0) -> dict[str, object]:
    stat = f"anon 5\ninactive_file {files}\nactive_file 7"
    return {"memory.max": limit, "memory.current": held, "memory.stat": stat}


def _old(limit: int, held: int, files: int = 0) -> dict[str, object]:
    stat = f"cache 5\ninactive_file 1\ntotal_inactive_file {files}"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": held, "memory.stat": stat}


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the top folder of a system of control groups without any, and of a process that is in none."""
    monkeypatch.setattr(ram, "_GROUPS", tmp_path)
    monkeypatch.setattr(ram, "_OWN", tmp_path / "own")
    return tmp_path


def test_no_limit_is_the_machine(groups: Path) -> None:
    assert list(ram.limits()) == []
    found = ram.ram()
    assert found.total == psutil.virtual_memory().total
    assert 0 < (found.free or 0) <= (found.total or 0)


def test_the_tightest_group_above_a_process_counts(groups: Path) -> None:
    (groups / "own").write_text("0::/user.slice/app.service\n")
    _group(groups / "user.slice", _new(3 * GB, 2 * GB, GB))
    _group(groups / "user.slice" / "app.service", _new("max", GB))
    assert list(ram.limits()) == [(3 * GB, GB)]
    assert ram.ram() == ram.Ram(3 * GB, 2 * GB)
    _group(groups / "user.slice" / "app.service", _new(2 * GB, GB))
    assert ram.ram() == ram.Ram(2 * GB, GB)


def test_the_older_groups_and_a_container_that_sees_only_itself(groups: Path) -> None:
    (groups / "own").write_text("9:name=systemd:/x\n4:cpu,memory:/docker/0123\n0::/\n")
    _group(groups / "memory", _old(2 * GB, GB + 5, 5))
    assert list(ram.limits()) == [(2 * GB, GB)]
    _group(groups / "memory", _old(9223372036854771712, GB))
    assert list(ram.limits()) == []


def test_a_group_that_is_full_leaves_nothing(groups: Path) -> None:
    (groups / "own").write_text("0::/\n")
    _group(groups, _new(GB, GB + 1))
    assert ram.ram() == ram.Ram(GB, 0)
