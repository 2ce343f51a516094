"""Removing source files as soon as nothing needs them: what is promised, what is never removed, what comes again."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backend.jobs.cancelling import cancel
from backend.jobs.lean import REMOVED, Lean
from backend.jobs.manager import partial_folder
from backend.jobs.view import JobState
from backend.plan import Plan
from backend.sources.extents import Extents
from tests.backend.jobs.warm_worker import Tune, WarmWorkers
from tests.backend.jobs.whole import House, leftovers, sums
from tests.bench.job_sweep import BASE, DELTA, publish_family
from tests.bench.lean import both
from tests.hub.server import Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub() as made:
        made.shard = publish_family(made, tmp_path_factory.mktemp("family"), layers=3, keep=False) // 4  # type: ignore[attr-defined]
        yield made


@pytest.fixture(autouse=True)
def mended(hub: Hub) -> None:
    hub.mend()


def house(tmp_path: Path, hub: Hub, warm: WarmWorkers, **tune: str) -> House:
    shard: int = hub.shard  # type: ignore[attr-defined]
    return House(tmp_path / "data", hub.url, warm=warm, tune=Tune(shard_bytes=shard, peeks=True, **tune))  # type: ignore[arg-type]


def lean(house: House, name: str = "made") -> Plan:
    return replace(house.plan(name, BASE, DELTA), keep_sources=False)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, hub: Hub, warm: WarmWorkers) -> dict[str, str]:
    """Return the sums of the model that comes out when everything is kept."""
    return sums(house(tmp_path_factory.mktemp("kept"), hub, warm).make("made", BASE, DELTA))


def done(house: House, plan: Plan) -> dict[str, str]:
    view = house.ended(house.jobs.start(plan))
    assert view.state is JobState.DONE, house.told(view)
    return sums(house.models / plan.name)


def test_no_more_than_promised_is_ever_on_the_disk(tmp_path: Path, warm: WarmWorkers) -> None:
    usual, found = both(tmp_path, warm, size=70_000_000, rate=None)
    assert found.sums == usual.sums  # cria.json too, with the hash of every source
    assert found.seen <= found.promised < usual.seen * 0.6
    assert found.left < usual.left * 0.4
    origins = json.loads((tmp_path / "lean" / "models" / "made" / "cria.json").read_text())["origins"]
    assert all(set(one["sums"]) == {name for name, _ in one["files"]} for one in origins)
    assert all(len(one["revision"]) == 40 and any("sha256:" in sum for sum in one["sums"].values()) for one in origins)


def test_what_was_there_before_stays(tmp_path: Path, hub: Hub, warm: WarmWorkers, kept: dict[str, str]) -> None:
    place = house(tmp_path, hub, warm)
    place.make("first", BASE)
    before = sums(place.downloads)
    assert done(place, lean(place)) == kept
    assert {path: value for path, value in sums(place.downloads).items() if "base" in path} == before
    assert not list(place.downloads.glob("*/*delta*"))
    assert leftovers(place, "first", "made") == []


def test_what_an_unfinished_job_needs_stays(tmp_path: Path, hub: Hub, warm: WarmWorkers, kept: dict[str, str]) -> None:
    place = house(tmp_path, hub, warm)
    hub.fault("status", 404, path="*cria/base*", kind="link", times=0)
    other = place.ended(place.jobs.start(place.plan("other", BASE)))
    assert other.state is JobState.FAILED
    hub.mend()
    assert done(place, lean(place)) == kept
    assert len(list(place.downloads.glob("*/*base/*/*.safetensors"))) == 4
    assert not list(place.downloads.glob("*/*delta*"))
    assert place.resume(other.id).state is JobState.DONE


def test_what_another_job_fetched_later_and_keeps_stays(tmp_path: Path, hub: Hub, warm: WarmWorkers) -> None:
    place = house(tmp_path, hub, warm)
    hub.fault("status", 404, path="*cria/delta*", kind="link", times=0)
    job = place.jobs.start(lean(place))
    assert place.ended(job).state is JobState.FAILED
    shutil.rmtree(place.downloads)
    hub.mend()
    place.make("first", BASE)  # whose plan says that the sources stay
    before = sums(place.downloads)
    assert place.resume(job).state is JobState.DONE
    assert {path: value for path, value in sums(place.downloads).items() if "base" in path} == before
    assert not list(place.downloads.glob("*/*delta*"))


def test_what_was_removed_and_came_again_stays_if_it_is_to(tmp_path: Path, hub: Hub, warm: WarmWorkers) -> None:
    """A killed run may have noted a file as removed and not removed it; afterwards somebody may have fetched it."""
    plan, store, partial = lean(house(tmp_path, hub, warm)), tmp_path / "downloads", tmp_path / "partial"
    ledger = Lean(plan, store, partial, elsewhere=set).ledger
    folder = plan.remotes[0].folder(store)
    path = folder / plan.remotes[0].listing.files[-1].name
    folder.mkdir(parents=True)
    for again, others, stays in ((plan, {folder}, True), (replace(plan, keep_sources=True), set(), True),
                                 (plan, set(), False)):  # fmt: skip
        path.write_bytes(b"bytes")
        ledger.restore(path)
        assert ledger.remove(path, Extents())
        path.write_bytes(b"bytes")
        Lean(again, store, partial, elsewhere=lambda others=others: others)
        assert path.exists() is stays


def test_what_a_cache_shares_stays(tmp_path: Path, hub: Hub, warm: WarmWorkers, kept: dict[str, str]) -> None:
    """A file of the Hugging Face cache is used under a second name; the cache keeps its own."""
    place = house(tmp_path, hub, warm)
    blobs = tmp_path / "cache" / "models--cria--base" / "blobs"
    blobs.mkdir(parents=True)
    for file in lean(place).remotes[0].listing.files:
        content = hub.repositories[BASE].files()[file.name]
        (blobs / str(file.sha256 or file.git_sha1)).write_bytes(content.read())
    before = {path.name: path.read_bytes() for path in blobs.iterdir()}
    cached = replace(place.access, cache=tmp_path / "cache")
    place.jobs._environment.update(cached.to_environment())
    assert done(place, lean(place)) == kept
    assert {path.name: path.read_bytes() for path in blobs.iterdir()} == before


def test_a_file_that_is_needed_once_more_is_fetched_once_more(
    tmp_path: Path, hub: Hub, warm: WarmWorkers, kept: dict[str, str]
) -> None:
    place = house(tmp_path, hub, warm, hold_in="merge")
    job = place.jobs.start(lean(place))
    view = place.held(job)
    os.kill(view.holder, 9)
    assert place.ended(job).state is JobState.INTERRUPTED
    partial = partial_folder(place.models, job)
    assert json.loads((partial / REMOVED / "ledger.json").read_text())["removed"]
    for written in partial.glob("model-*.safetensors"):
        data = bytearray(written.read_bytes())
        data[-1] ^= 1
        written.write_bytes(data)
    place = house(tmp_path, hub, warm)
    assert place.resume(job).state is JobState.DONE
    assert sums(place.models / "made") == kept
    assert not place.downloads.exists() or not list(place.downloads.glob("*/*/*"))


def test_a_job_that_kept_can_go_on_without(tmp_path: Path, hub: Hub, warm: WarmWorkers, kept: dict[str, str]) -> None:
    place = house(tmp_path, hub, warm, hold_in="merge")
    job = place.jobs.start(place.plan("made", BASE, DELTA))
    place.held(job)
    place.jobs.pause(job)
    assert place.ended(job).state is JobState.CANCELLED
    assert list(place.downloads.glob("*/*base/*/model-00001-*"))
    place = house(tmp_path, hub, warm)
    place.jobs.change(job, lean(place))
    assert place.resume(job).state is JobState.DONE
    assert sums(place.models / "made") == kept
    assert not list(place.downloads.glob("*/*/*"))


def test_cancelling_removes_what_was_made_and_fetched_and_nothing_else(
    tmp_path: Path, hub: Hub, warm: WarmWorkers
) -> None:
    place = house(tmp_path, hub, warm, hold_in="merge")
    free = house(tmp_path, hub, warm)
    free.make("first", BASE)
    before = sums(place.downloads)
    job = place.jobs.start(place.plan("made", BASE, DELTA))
    place.held(job)
    assert cancel(place.jobs, place.data_dir, job) > 100_000
    assert place.jobs.views()[0].model == "first"
    assert sums(place.downloads) == before
    assert leftovers(place, "first") == []
