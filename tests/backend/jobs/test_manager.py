"""Jobs in real child processes: watched, cancelled, killed, resumed, deleted; the journal tells all of it."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import JobError, MachineError
from backend.jobs.manager import JobManager
from backend.jobs.view import JobState, JobView
from backend.plan import Plan, make_plan
from backend.recipes import custom_recipe

WORKER = "tests.backend.jobs.fake_worker"


@pytest.fixture
def manager(tmp_path: Path) -> JobManager:
    return JobManager(tmp_path / "data", worker=WORKER)


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"x" * 100)

    def make(name: str = "mine", kind: str | None = None) -> Plan:
        return make_plan(custom_recipe(name, base=str(base), template=kind))

    return make


def wait(manager: JobManager, job: str, until: Callable[[JobView], bool], seconds: float = 30.0) -> JobView:
    deadline = time.monotonic() + seconds
    while not until(view := manager.view(job)):
        assert time.monotonic() < deadline, view
        time.sleep(0.02)
    return view


def ended(view: JobView) -> bool:
    return view.state not in {JobState.RUNNING, JobState.QUEUED}


def merging(view: JobView) -> bool:
    return view.steps[1].done >= 3


def test_a_worker_makes_no_folder_of_a_name_that_cannot_be_a_models(
    manager: JobManager, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    view = wait(manager, manager.start(replace(plan(), name=".hidden")), ended)
    assert view.state is JobState.FAILED
    assert view.error is not None
    assert view.error.key == "recipes.bad_name"
    assert list((tmp_path / "data" / "models").iterdir()) == []


def test_a_job_runs_to_its_end_and_leaves_a_model(
    manager: JobManager, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    job = manager.start(plan())
    view = wait(manager, job, ended)
    assert view.state is JobState.DONE, view
    assert view.fraction == 1.0
    assert view.sample is not None
    assert view.log[0].key == "sources.checked"
    assert all(step.state is JobState.DONE for step in view.steps)
    assert view.steps[0].memory > 1_000_000
    assert (tmp_path / "data" / "models" / "mine").is_dir()
    assert view.leftover_bytes == 0


def test_another_manager_sees_and_steers_the_same_jobs(
    manager: JobManager, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    job = manager.start(plan(kind="slow"))
    other = JobManager(tmp_path / "data", worker=WORKER)
    wait(other, job, merging)
    assert [view.id for view in other.views()] == [job]
    other.pause(job)
    view = wait(manager, job, ended)
    assert view.state is JobState.CANCELLED
    assert view.leftover_bytes > 0


def test_a_cancelled_job_goes_on_where_it_stopped(manager: JobManager, plan: Callable[..., Plan]) -> None:
    job = manager.start(plan(kind="slow"))
    wait(manager, job, merging)
    manager.pause(job)
    stopped = wait(manager, job, ended)
    manager.resume(job)
    view = wait(manager, job, lambda view: view.state is JobState.RUNNING)
    assert view.steps[0].state is JobState.DONE
    resumed = wait(manager, job, lambda view: view.steps[1].state is JobState.RUNNING and view.steps[1].done > 0)
    assert resumed.steps[1].done > stopped.steps[1].done - 1
    assert wait(manager, job, ended).state is JobState.DONE


def test_a_killed_worker_is_interrupted_and_resumes(
    manager: JobManager, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    job = manager.start(plan(kind="slow"))
    view = wait(manager, job, merging)
    os.kill(view.holder, signal.SIGKILL)
    assert wait(manager, job, ended).state is JobState.INTERRUPTED
    fresh = JobManager(tmp_path / "data", worker=WORKER)
    assert fresh.view(job).state is JobState.INTERRUPTED
    fresh.resume(job)
    assert wait(fresh, job, ended).state is JobState.DONE


def test_a_terminated_worker_stops_cleanly(manager: JobManager, plan: Callable[..., Plan]) -> None:
    job = manager.start(plan(kind="slow"))
    os.kill(wait(manager, job, merging).holder, signal.SIGTERM)
    assert wait(manager, job, ended).state is JobState.CANCELLED


def test_one_heavy_job_at_a_time(manager: JobManager, plan: Callable[..., Plan]) -> None:
    first = manager.start(plan("one", "slow"))
    wait(manager, first, merging)
    second = manager.start(plan("two"))
    wait(manager, second, lambda view: view.state is JobState.QUEUED)
    assert manager.view(first).state is JobState.RUNNING
    manager.pause(first)
    assert wait(manager, second, ended).state is JobState.DONE


def test_a_queued_job_can_be_paused(manager: JobManager, plan: Callable[..., Plan]) -> None:
    first = manager.start(plan("one", "slow"))
    wait(manager, first, merging)
    second = manager.start(plan("two"))
    manager.pause(second)
    assert wait(manager, second, ended).state is JobState.CANCELLED
    manager.pause(first)
    wait(manager, first, ended)


def test_a_full_disk_is_a_sentence(manager: JobManager, plan: Callable[..., Plan]) -> None:
    view = wait(manager, manager.start(plan(kind="disk-full")), ended)
    assert view.state is JobState.FAILED
    assert view.error is not None
    assert view.error.key == "job.disk_full"
    assert view.error.hint is not None


def test_a_bug_is_a_sentence_and_the_log_has_the_rest(
    manager: JobManager, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    job = manager.start(plan(kind="bug"))
    view = wait(manager, job, ended)
    assert view.error is not None
    assert "ZeroDivisionError" in view.error.text()
    assert "Traceback" not in view.error.text()
    assert "Traceback" in (tmp_path / "data" / "jobs" / job / "worker.log").read_text(encoding="utf-8")


def test_deleting_frees_the_leftovers(manager: JobManager, plan: Callable[..., Plan], tmp_path: Path) -> None:
    job = manager.start(plan(kind="slow"))
    wait(manager, job, merging)
    with pytest.raises(JobError, match="running"):
        manager.delete(job)
    manager.pause(job)
    wait(manager, job, ended)
    manager.delete(job)
    assert manager.views() == ()
    assert [path.name for path in (tmp_path / "data" / "models").iterdir()] == []


def test_two_jobs_for_one_name_are_refused(manager: JobManager, plan: Callable[..., Plan]) -> None:
    job = manager.start(plan(kind="slow"))
    with pytest.raises(JobError, match="mine"):
        manager.start(plan())
    manager.pause(job)
    wait(manager, job, ended)


def test_a_running_job_is_not_started_twice(manager: JobManager, plan: Callable[..., Plan]) -> None:
    job = manager.start(plan(kind="slow"))
    with pytest.raises(JobError, match="running"):
        manager.resume(job)
    manager.pause(job)
    wait(manager, job, ended)


@pytest.mark.parametrize("job", ["nope", "../../etc", "", "a/b"])
def test_an_unknown_job_is_said_to_be_unknown(manager: JobManager, job: str) -> None:
    for act in (manager.view, manager.pause, manager.resume, manager.delete):
        with pytest.raises(JobError):
            act(job)


def test_a_damaged_plan_hides_no_other_job(manager: JobManager, plan: Callable[..., Plan], tmp_path: Path) -> None:
    job = manager.start(plan())
    wait(manager, job, ended)
    broken = tmp_path / "data" / "jobs" / "broken"
    broken.mkdir()
    (broken / "plan.json").write_text(json.dumps({"name": 1}), encoding="utf-8")
    fresh = JobManager(tmp_path / "data", worker=WORKER)
    assert [view.id for view in fresh.views()] == [job]
    fresh.delete("broken")
    assert not broken.exists()


def test_a_data_folder_that_is_a_file_is_named(plan: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineError, match="file"):
        JobManager(tmp_path / "file", worker=WORKER).start(plan())
