"""A journal folded into bars: state, speed, time left, and the overall fraction, all from recorded counts."""

from typing import Any

import pytest

from backend.errors import JobError
from backend.jobs.folded import FoldedJob
from backend.jobs.view import JobState
from backend.plan import Plan, Step
from backend.text import Message

MB = 1_000_000


def make_plan() -> Plan:
    steps = (
        Step("fetch", Message("steps.fetch"), 100 * MB, 0, 50 * MB),
        Step("merge", Message("steps.merge_delta"), 100 * MB, 100 * MB, 400 * MB, 2.0),
    )
    return Plan("demo", {"en": "Demo"}, "demo", "b", "d", (), None, None, None, steps)


def fold(*events: dict[str, Any]) -> FoldedJob:
    job = FoldedJob("job-1", make_plan())
    for event in events:
        job.feed(event)
    return job


RUN = {"e": "run", "pid": 42, "t": 1000.0}


def test_before_anything_it_is_queued() -> None:
    view = fold().view(alive=True)
    assert view.state is JobState.QUEUED
    assert view.fraction == 0.0
    assert [step.state for step in view.steps] == [JobState.QUEUED] * 2


def test_speed_and_time_left_come_from_the_counts() -> None:
    progress = [{"e": "progress", "id": "fetch", "m": m, "done": int(m * 10 * MB), "total": 100 * MB} for m in range(6)]
    view = fold(RUN, {"e": "step", "id": "fetch", "m": 0.0}, *progress).view(alive=True)
    step = view.steps[0]
    assert step.done == 50 * MB
    assert step.bytes_per_s == pytest.approx(10 * MB)
    assert step.seconds_left == pytest.approx(5.0)
    assert view.seconds_left is not None
    assert view.seconds_left > 5.0  # the second step is still to come
    assert view.holder == 42


def test_bytes_that_were_there_before_are_not_speed() -> None:
    job = fold(
        RUN,
        {"e": "step", "id": "merge", "m": 0.0},
        {"e": "progress", "id": "merge", "m": 0.1, "done": 90 * MB, "total": 100 * MB},
        {"e": "progress", "id": "merge", "m": 1.1, "done": 91 * MB, "total": 100 * MB},
    )
    assert job.view(alive=True).steps[1].bytes_per_s == pytest.approx(MB)


def test_a_finished_step_keeps_what_it_measured() -> None:
    view = fold(
        RUN,
        {"e": "step", "id": "fetch", "m": 1.0},
        {"e": "progress", "id": "fetch", "m": 2.0, "done": 100 * MB, "total": 100 * MB},
        {"e": "step_done", "id": "fetch", "m": 3.5, "memory": 77 * MB},
    ).view(alive=True)
    step = view.steps[0]
    assert (step.state, step.seconds, step.memory) == (JobState.DONE, 2.5, 77 * MB)
    assert (step.planned_s, step.planned_memory) == (pytest.approx(0.2), 50 * MB)
    assert 0 < view.fraction < 1
    assert view.peak_memory == 77 * MB


def test_running_without_a_holder_is_interrupted() -> None:
    job = fold(RUN, {"e": "step", "id": "fetch", "m": 0.0})
    assert job.view(alive=True).state is JobState.RUNNING
    view = job.view(alive=False)
    assert view.state is JobState.INTERRUPTED
    assert view.steps[0].state is JobState.INTERRUPTED
    assert view.seconds_left is None


@pytest.mark.parametrize(("event", "state"), [("done", JobState.DONE), ("cancelled", JobState.CANCELLED)])
def test_endings(event: str, state: JobState) -> None:
    view = fold(RUN, {"e": event}).view(alive=False)
    assert view.state is state
    assert (view.fraction == 1.0) is (state is JobState.DONE)


def test_a_step_that_starts_up_moves_by_the_clock() -> None:
    job = fold(RUN, {"e": "step", "id": "merge", "m": 0.0})
    before = job.view(alive=True).fraction
    job.feed({"e": "progress", "id": "merge", "m": 1.0, "done": 0, "total": 100 * MB})
    half = job.view(alive=True).fraction
    job.feed({"e": "progress", "id": "merge", "m": 60.0, "done": 0, "total": 100 * MB})
    late = job.view(alive=True)
    assert before < half < late.fraction < 0.9
    assert late.steps[1].done == 0


def test_the_clock_goes_on_while_a_step_says_nothing() -> None:
    job = fold(RUN, {"e": "step", "id": "merge", "m": 1.0})
    assert job.view(alive=True, now=1005.0).steps[1].seconds == pytest.approx(4.0)
    assert job.view(alive=False, now=1099.0).steps[1].seconds == pytest.approx(4.0)
    job.feed({"e": "step_done", "id": "merge", "m": 6.0})
    assert job.view(alive=True, now=1050.0).steps[1].seconds == pytest.approx(5.0)


def test_a_worker_that_starts_is_not_waiting_for_another() -> None:
    assert fold({"e": "start"}).view(alive=True).state is JobState.RUNNING
    assert (
        fold({"e": "start"}, {"e": "run", "pid": 1, "t": 1.0}, {"e": "queued"}).view(alive=True).state
        is JobState.QUEUED
    )


def test_a_failure_keeps_its_reason_and_a_new_run_forgets_it() -> None:
    error = JobError("job.disk_full", what="x").to_json()
    job = fold(RUN, {"e": "failed", "error": error})
    assert job.view(alive=False).error is not None
    job.feed(RUN)
    view = job.view(alive=True)
    assert view.error is None
    assert view.state is JobState.RUNNING


def test_the_sample_is_shown() -> None:
    view = fold(RUN, {"e": "sample", "question": "Hello!", "answer": "Hi.", "stopped": True}).view(alive=True)
    assert view.sample is not None
    assert view.sample.answer == "Hi."


def test_events_of_a_newer_cria_are_ignored() -> None:
    assert fold(RUN, {"e": "telepathy", "id": "fetch"}, {"e": "step", "id": "unknown"}).view(alive=True).fraction == 0.0


def test_the_log_is_bounded() -> None:
    job = fold(RUN, *({"e": "log", "message": {"key": f"k{n}", "params": {}}} for n in range(500)))
    log = job.view(alive=True).log
    assert len(log) == 200
    assert log[-1].key == "k499"


def test_a_step_that_stands_still_promises_no_time() -> None:
    moves = [{"e": "progress", "id": "fetch", "m": m, "done": m * 10 * MB, "total": 100 * MB} for m in range(3)]
    stands = [{"e": "progress", "id": "fetch", "m": m, "done": 20 * MB, "total": 100 * MB} for m in range(3, 60)]
    view = fold(RUN, {"e": "step", "id": "fetch", "m": 0.0}, *moves, *stands).view(alive=True)
    assert view.steps[0].is_stalled
    assert (view.steps[0].seconds_left, view.seconds_left) == (None, None)


def test_two_steps_at_once_share_the_clock() -> None:
    begun = [{"e": "step", "id": step, "m": 0.0} for step in ("fetch", "merge")]
    progress = [{"e": "progress", "id": "fetch", "m": m, "done": m * 10 * MB, "total": 100 * MB} for m in range(6)]
    merged = [{"e": "progress", "id": "merge", "m": m, "done": m * MB, "total": 100 * MB} for m in range(6)]
    job = fold(RUN, *begun, *progress, *merged)
    view = job.view(alive=True)
    assert view.seconds == pytest.approx(5.0)
    assert view.steps[1].seconds_left is None  # it gets its bytes from the other one
    assert view.seconds_left is not None
    assert 5.0 < view.seconds_left < 10.0
    job.feed({"e": "step_done", "id": "fetch", "m": 10.0})
    job.feed({"e": "progress", "id": "merge", "m": 12.0, "done": 50 * MB, "total": 100 * MB})
    view = job.view(alive=True)
    assert view.seconds == pytest.approx(12.0)
    assert view.steps[1].seconds_left is not None
    job.feed({"e": "step_done", "id": "merge", "m": 13.0})
    assert job.view(alive=True).seconds == pytest.approx(13.0)


def test_a_killed_run_leaves_no_step_running_in_the_next() -> None:
    begun = [{"e": "step", "id": step, "m": 0.0} for step in ("fetch", "merge")]
    job = fold(RUN, *begun, RUN, begun[0])
    assert [step.state for step in job.view(alive=True).steps] == [JobState.RUNNING, JobState.QUEUED]


def test_files_on_their_way_are_seen_while_they_are() -> None:
    files = [["a.bin", 1, 2], ["b.bin", 3, 4]]
    job = fold(RUN, {"e": "step", "id": "fetch", "m": 0.0})
    job.feed({"e": "progress", "id": "fetch", "m": 1.0, "done": 4, "total": 6, "files": files})
    assert [(file.name, file.done, file.total) for file in job.view(alive=True).steps[0].files] == [
        ("a.bin", 1, 2),
        ("b.bin", 3, 4),
    ]
    job.feed({"e": "step_done", "id": "fetch", "m": 2.0})
    assert job.view(alive=True).steps[0].files == ()
