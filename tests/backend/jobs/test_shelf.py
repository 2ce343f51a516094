"""What may be done to a model, and when not: it is loaded, needed by a set-up, or being checked."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backend.engines.base import EngineState, EngineStatus
from backend.errors import CriaError, UsageError
from backend.jobs.check import check_plan
from backend.jobs.manager import JobManager
from backend.jobs.shelf import Shelf
from backend.jobs.view import JobState, JobView
from backend.library.looking import Looker
from backend.plan import Plan
from tests.backend.library.folders import ask_here, bare, early, examine_here

WAIT_S = 60.0


@dataclass
class Jobs:
    """Set-ups and checks that stand where a test puts them."""

    known: dict[str, tuple[JobView, Plan]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    paused: list[str] = field(default_factory=list)

    def put(self, job: str, plan: Plan, state: JobState) -> None:
        self.known[job] = (JobView(job, plan.recipe, plan.title, plan.name, state), plan)

    def views(self) -> tuple[JobView, ...]:
        return tuple(view for view, _ in self.known.values())

    def plan(self, job: str) -> Plan:
        return self.known[job][1]

    def start(self, plan: Plan) -> str:
        self.put(f"job-{len(self.known)}", plan, JobState.RUNNING)
        return f"job-{len(self.known) - 1}"

    def pause(self, job: str) -> None:
        self.paused.append(job)

    def delete(self, job: str) -> None:
        self.deleted.append(job)
        del self.known[job]


@dataclass
class World:
    """A data folder with one good and one early model; what is loaded and what runs is a test's to say."""

    data: Path
    jobs: Jobs = field(default_factory=Jobs)
    checks: Jobs = field(default_factory=Jobs)
    now: EngineStatus = field(default_factory=EngineStatus)

    @property
    def models(self) -> Path:
        return self.data / "models"

    def shelf(self, **parts: Any) -> Shelf:
        looker = Looker(self.models, self.data / "checks" / "looked.json", examine=examine_here)
        made: dict[str, Any] = {"looker": looker, "checks": self.checks, "ask": ask_here, **parts}
        return Shelf(self.data, self.jobs, lambda: self.now, **made)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> World:
    bare(tmp_path / "models" / "mine")
    early(tmp_path / "models" / "old")
    return World(tmp_path)


CHANGES: list[Callable[[Shelf], object]] = [
    lambda shelf: shelf.rename("old", "new"), lambda shelf: shelf.delete("old"), lambda shelf: shelf.repair("old"),
    lambda shelf: shelf.undo("old"),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_somebody_needs_stays_as_it_is(world: World, change: Callable[[Shelf], object]) -> None:
    shelf, folder = world.shelf(), world.models / "old"
    before = sorted(path.name for path in folder.iterdir())
    plan = check_plan(folder, name="x", size=1)

    def refused() -> str:
        with pytest.raises(UsageError) as caught:
            change(shelf)
        assert caught.value.hint is not None
        return caught.value.key

    world.now = EngineStatus(EngineState.LOADING, "old")
    assert refused() == "library.in_use"
    world.now = EngineStatus()
    world.jobs.put("a", replace(plan, name="merged"), JobState.QUEUED)
    assert refused() == "models.needed"
    world.jobs.known.clear()
    world.checks.put("b", replace(plan, name=shelf.find("old").info.id), JobState.RUNNING)
    assert refused() == "models.checking"
    assert sorted(path.name for path in folder.iterdir()) == before


def test_what_was_done_with_a_model_is_done_by_id_or_name(world: World) -> None:
    shelf = world.shelf()
    known = {one.info.name: one for one in shelf.shelved(wait=True)}
    old = known["old"]
    assert old.found is not None
    assert len(old.found.faults) == 7
    shelf.repair(old.info.id, template="vicuna-v1.1")
    assert next(one for one in shelf.shelved(wait=True) if one.info.name == "old").found.faults == ()  # type: ignore[union-attr]
    shelf.undo("old")
    assert len(next(one for one in shelf.shelved(wait=True) if one.info.name == "old").found.faults) == 7  # type: ignore[union-attr]
    shelf.rename(old.info.id, "new")
    shelf.delete("new")
    assert [info.name for info in shelf.models()] == ["mine"]
    for gone in (old.info.id, "old", "../models/mine", str(world.models / "mine")):
        with pytest.raises(UsageError, match="mine"):
            shelf.delete(gone)


def test_a_check_is_started_once_stopped_and_forgotten(world: World) -> None:
    shelf = world.shelf()
    first = shelf.check("mine")
    with pytest.raises(CriaError) as caught:
        shelf.check("mine")
    assert caught.value.key == "models.checking"
    shelf.cancel_check("mine")
    assert world.checks.paused == [first]
    view, plan = world.checks.known[first]
    world.checks.put(first, plan, JobState.CANCELLED)
    assert shelf.find("mine").check == replace(view, state=JobState.CANCELLED)
    shelf.check("mine")
    assert world.checks.deleted == [first]


def test_a_real_check_runs_in_a_process_of_its_own(world: World) -> None:
    checks = JobManager(world.data, worker="backend.jobs.checker", place="checks")
    shelf = world.shelf(checks=checks)
    job, deadline = shelf.check("mine"), time.monotonic() + WAIT_S
    while shelf.watch(job).state in {JobState.RUNNING, JobState.QUEUED}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = shelf.find("mine")
    assert found.check is not None
    assert (found.check.state, found.is_free) == (JobState.DONE, True)
    assert found.info.checked is not None
    assert found.info.checked.bad == ()
    assert world.jobs.views() == ()  # a check is no set-up


def test_what_no_repair_mends_is_unsound(world: World) -> None:
    weights = next(bare(world.models / "cut").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    shelf = world.shelf()
    assert shelf.unsound() == frozenset()  # nobody has looked yet
    shelf.shelved(wait=True)
    assert shelf.unsound() == {"cut"}
