"""Disks that fill up or are taken away at every step of a whole job: said in numbers, nothing half, then it goes on.

The disk is a small file system in memory where one may be mounted; a limit on the length of files does the rest.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.jobs.view import JobState, JobView
from backend.plan import Plan
from tests.backend.jobs.warm_worker import BALLAST, Tune, WarmWorkers, fill
from tests.backend.jobs.whole import House, leftovers, sums
from tests.hub.family import demo
from tests.hub.server import Hub

BASE, DELTA, NAME = "cria/base", "cria/delta", "made"
SHARDS, DISK = 1_500_000, "128m"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add(BASE, demo("base"))
        hub.add(DELTA, demo("delta"))
        yield hub


@pytest.fixture(scope="module")
def plan(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return House(tmp_path_factory.mktemp("plan"), hub.url).plan(NAME, BASE, DELTA)


@pytest.fixture(scope="module")
def reference(plan: Plan, warm: WarmWorkers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    house = House(tmp_path_factory.mktemp("reference"), None, warm=warm, tune=Tune(shard_bytes=SHARDS))
    view = house.ended(house.jobs.start(plan))
    assert view.state is JobState.DONE, house.told(view)
    return sums(house.models / NAME)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()[:200]}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def said(house: House, view: JobView) -> str:
    """Return what a person reads, after making sure that it is a failure with a way out and nothing is on the shelf."""
    assert view.state is JobState.FAILED, house.told(view)
    assert view.error is not None
    assert view.error.hint is not None
    assert "Traceback" not in view.error.text()
    assert not list(house.models.glob("[!.]*"))
    return view.error.text()


def finished(house: House, view: JobView) -> dict[str, str]:
    assert view.state is JobState.DONE, house.told(view)
    assert leftovers(house, NAME) == []
    return sums(house.models / NAME)


@pytest.mark.parametrize("free", [0, 400_000])
@pytest.mark.parametrize("step", ["fetch", "merge", "finish", "publish"])
def test_a_disk_that_is_full_at_a_step(
    disk: Path, plan: Plan, warm: WarmWorkers, reference: dict[str, str], step: str, free: int
) -> None:
    full = House(disk / "data", None, warm=warm, tune=Tune(shard_bytes=SHARDS, full_before=step, free=free))
    job = full.jobs.start(plan)
    view = full.ended(job)
    if view.state is JobState.DONE:
        assert free > 0  # what was left was enough
        assert finished(full, view) == reference
        return
    text = said(full, view)
    assert " free" in text
    assert "?" not in text  # no figure that is not known
    (disk / BALLAST).unlink()
    house = House(disk / "data", None, warm=warm, tune=Tune(shard_bytes=SHARDS))
    assert finished(house, house.resume(job)) == reference


def test_a_disk_that_fills_up_while_it_downloads(disk: Path, warm: WarmWorkers, reference: dict[str, str]) -> None:
    with Hub(rate=4e6) as slow:
        slow.add(BASE, demo("base"))
        slow.add(DELTA, demo("delta"))
        house = House(disk / "data", slow.url, warm=warm, tune=Tune(shard_bytes=SHARDS))
        job = house.start(NAME, BASE, DELTA)
        house.wait(job, lambda view: slow.sent() > 2_000_000)
        fill(house.data_dir)
        assert " free" in said(house, house.ended(job))
        (disk / BALLAST).unlink()
        before = slow.sent()
        assert finished(house, house.resume(job)) == reference
        assert slow.sent() - before < 11_000_000 - 1_000_000  # what had arrived was kept


@pytest.mark.parametrize("limit", [300_000, 1_000_000])
def test_a_limit_on_files_is_a_sentence(
    plan: Plan, warm: WarmWorkers, reference: dict[str, str], tmp_path: Path, limit: int
) -> None:
    limited = House(tmp_path / "data", None, warm=warm, tune=Tune(shard_bytes=SHARDS, file_limit=limit))
    job = limited.jobs.start(plan)
    said(limited, limited.ended(job))
    house = House(tmp_path / "data", None, warm=warm, tune=Tune(shard_bytes=SHARDS))
    assert finished(house, house.resume(job)) == reference


@pytest.mark.parametrize("lost", ["downloads", "models/.partial"])
def test_a_folder_that_is_taken_away_under_way(
    plan: Plan, warm: WarmWorkers, reference: dict[str, str], tmp_path: Path, lost: str
) -> None:
    held = House(tmp_path / "data", None, warm=warm, tune=Tune(shard_bytes=SHARDS, hold_in="merge"))
    job = held.jobs.start(plan)
    held.held(job)
    shutil.rmtree(held.data_dir / lost if lost == "downloads" else held.models / f".partial-{job}")
    held.jobs.pause(job)
    held.ended(job)
    house = House(tmp_path / "data", None, warm=warm, tune=Tune(shard_bytes=SHARDS))
    assert finished(house, house.resume(job)) == reference


def test_a_disk_that_may_only_be_read(disk: Path, plan: Plan, warm: WarmWorkers, reference: dict[str, str]) -> None:
    held = House(disk / "data", None, warm=warm, tune=Tune(shard_bytes=SHARDS, hold_in="finish"))
    for name in ("models", "jobs", "downloads"):
        (held.data_dir / name).mkdir(parents=True)
    bound = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", str(held.downloads)], check=False)
    assert bound.returncode == 0
    try:
        job = held.jobs.start(plan)
        text = said(held, held.ended(job))
    finally:
        subprocess.run(["umount", str(held.downloads)], check=True)
    assert str(held.downloads) in text
    assert "ead-only" in text
    house = House(disk / "data", None, warm=warm, tune=Tune(shard_bytes=SHARDS))
    assert finished(house, house.resume(job)) == reference
