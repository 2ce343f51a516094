"""The child process that runs one job: takes its steps in order, writes the journal, stops when asked.

    python -m backend.jobs.worker JOB_FOLDER DATA_FOLDER LOCK_FD

Started by the manager with the job's lock already held. Knows nothing about pages, or what steps do inside.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from backend.errors import Cancelled, CriaError
from backend.events import Event, Log
from backend.jobs import steps
from backend.jobs.folded import FoldedJob
from backend.jobs.joint import Joint, make_joint
from backend.jobs.journal import JournalReader, JournalWriter
from backend.jobs.lean import Lean
from backend.jobs.manager import CANCEL, JOURNAL, PLAN, JobManager, partial_folder
from backend.jobs.stock import needed_by_others
from backend.jobs.together import together
from backend.jobs.view import JobState
from backend.locks import try_lock
from backend.plan import FETCH, FINISH, MERGE, Plan
from backend.recipes import check_name
from backend.sources.access import Access
from backend.sources.arriving import NeededAgain

_LINE_EVERY_S = 0.25
_HEARTBEAT_S = 1.0  # how often a step that stands still says so: its time goes on
_POLL_S = 0.1
_FILES = 16  # of those on their way, as many as a person looks at


class Stopper:
    """Answers "should I stop?": yes after SIGTERM or SIGINT, or once somebody put a cancel file into the job folder."""

    def __init__(self, flag: Path) -> None:
        self._flag, self._asked, self._looked = flag, False, 0.0

    def install(self) -> None:
        """Take over the stop signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._asked = True

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._asked and now - self._looked > _POLL_S:
            self._looked, self._asked = now, self._flag.exists()
        return self._asked


def peak_memory() -> int:
    """Return the largest resident size of this process since ``forget_peak``, in bytes."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Start measuring the peak afresh, so that each step is charged for its own; only Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class Recorder:
    """Writes a step's events to the journal: all log lines, and about four progress lines a second."""

    def __init__(self, journal: JournalWriter) -> None:
        self._journal, self._began = journal, time.monotonic()
        self._last: dict[str, tuple[float, Event]] = {}  # of each step: two may run at once

    def now(self) -> float:
        """Return seconds since the worker began."""
        return round(time.monotonic() - self._began, 3)

    def record(self, step: str, event: Event) -> None:
        """Journal one event of a step; progress that comes too fast is thinned, the last line of a step never is."""
        if isinstance(event, Log):
            self._journal.write("log", message=event.message.to_json())
            return
        now = self.now()
        last_at, last = self._last.get(step, (-_LINE_EVERY_S, None))
        if event == last and now - last_at < _HEARTBEAT_S:
            return
        if now - last_at >= _LINE_EVERY_S or event.done >= event.total:
            self._last[step] = now, event
            more: dict[str, Any] = {"note": event.note.to_json()} if event.note else {}
            if event.files:
                more["files"] = [[file.name, file.done, file.total] for file in event.files[:_FILES]]
            self._journal.write("progress", id=step, m=now, done=event.done, total=event.total, **more)


def wait_for_turn(jobs_dir: Path, journal: JournalWriter, cancelled: Callable[[], bool]) -> int:
    """Return the lock of the one heavy job, waiting while another job holds it."""
    said = False
    while (handle := try_lock(jobs_dir / "heavy.lock")) is None:
        if cancelled():
            raise Cancelled("job.cancelled")
        if not said:
            journal.write("queued")
            said = True
        time.sleep(_POLL_S)
    return handle


def run_steps(context: steps.Context, past: FoldedJob, journal: JournalWriter, table: steps.Table) -> None:
    """Run every step that the journal does not call done."""
    recorder, early = Recorder(journal), set[str]()
    while not past.finished(MERGE) and not early and (joint := make_joint(context)):
        with contextlib.suppress(NeededAgain):  # then it is on the list of what to fetch again
            _run_both(joint, journal, recorder, table)
            early = {FETCH, MERGE}
    for step in context.plan.steps:
        # Cheap if they are there, and they may be gone; once the folder is complete nobody reads them any more.
        again = step.id == FETCH and context.plan.remotes and not past.finished(FINISH)
        if step.id in early or (past.finished(step.id) and not again):
            continue
        forget_peak()
        journal.write("step", id=step.id, m=recorder.now())
        for event in table[step.id](context):
            recorder.record(step.id, event)
        if step.id == "try" and context.sample is not None:
            sample = context.sample
            cause = sample.cause.to_json() if sample.cause else None
            journal.write("sample", question=sample.question, answer=sample.answer, stopped=sample.stopped, cause=cause)
        journal.write("step_done", id=step.id, m=recorder.now(), memory=max(peak_memory(), context.child_memory))
    for event in table[steps.PUBLISH](context):
        recorder.record(steps.PUBLISH, event)


def _run_both(joint: Joint, journal: JournalWriter, recorder: Recorder, table: steps.Table) -> None:
    """Download and merge at once: what has come is merged while the rest is on its way."""
    forget_peak()
    for step in (FETCH, MERGE):
        journal.write("step", id=step, m=recorder.now())
    try:
        works = {step: partial(table[step], joint.context) for step in (FETCH, MERGE)}
        for step, event in together(works, joint.halt):
            if event is None:
                journal.write("step_done", id=step, m=recorder.now(), memory=peak_memory())
            else:
                recorder.record(step, event)
    finally:
        joint.close()


def run(folder: Path, data_dir: Path, *, table: steps.Table = steps.STEPS) -> int:
    """Run one job to its end, whatever the end is; return 0, 1 (failed) or 130 (cancelled)."""
    plan = Plan.from_json(json.loads((folder / PLAN).read_text(encoding="utf-8")))
    past = FoldedJob(folder.name, plan)
    for event in JournalReader(folder / JOURNAL).new_lines():
        past.feed(event)
    if past.state is JobState.DONE:
        return 0
    stopper, journal = Stopper(folder / CANCEL), JournalWriter(folder / JOURNAL)
    stopper.install()
    try:
        journal.write("run", pid=os.getpid(), t=time.time())
        check_name(plan.name)  # a plan of an older Cria, or one that was edited: it becomes a folder's name
        turn = wait_for_turn(folder.parent, journal, stopper)
        try:
            models = data_dir / "models"
            access = Access.from_worker(os.environ)
            context = steps.Context(
                plan.through(access.chosen),
                models,
                partial_folder(models, folder.name),
                data_dir / "logs",
                stopper,
                downloads=data_dir / "downloads",
                access=access,
            )
            context.sample = past.sample
            if plan.remotes and (context.partial.exists() or not past.finished(FINISH)):
                lean = Lean(plan, context.downloads, context.partial, elsewhere=partial(_elsewhere, folder, data_dir))
                context.lean = None if plan.keep_sources else lean
            run_steps(context, past, journal, table)
        finally:
            os.close(turn)
        journal.write("done")
    except Cancelled:
        journal.write("cancelled")
        return 130
    except CriaError as problem:
        with contextlib.suppress(OSError):  # the disk may be full
            print(problem.text(), file=sys.stderr)  # noqa: T201 - the worker's own log
        journal.write("failed", error=problem.to_json())
        return 1
    except Exception as problem:  # noqa: BLE001 - the last boundary: a person must read a sentence, the log keeps the rest
        with contextlib.suppress(OSError):
            traceback.print_exc()
        journal.write("failed", error=steps.explain(problem, folder=data_dir).to_json())
        return 1
    finally:
        journal.close()
    return 0


def _elsewhere(folder: Path, data_dir: Path) -> set[Path]:
    """Return the downloads that other jobs of the same place need or were told to keep."""
    jobs = JobManager(data_dir, place=folder.parent.name)
    return needed_by_others(jobs, data_dir / "downloads", but=folder.name)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), Path(sys.argv[2])))
