"""Jobs as a whole: start, list, pause, resume, delete. Knows nothing about what a step does or how a job is drawn.

Every answer is read from the job folders, so a second manager in another process (the page, a terminal) sees and steers
the same jobs. What a manager keeps in memory is how far it has read each journal, and what it was given for one job.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from backend.errors import JobError, MachineError
from backend.jobs.folded import FoldedJob
from backend.jobs.journal import JournalReader, JournalWriter
from backend.jobs.view import JobState, JobView
from backend.locks import is_locked, try_lock
from backend.plan import Plan
from backend.settings import ROOT
from backend.storage import disk_bytes, replace_file

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
PLAN, JOURNAL, LOCK, CANCEL, OUTPUT = "plan.json", "journal.jsonl", "lock", "cancel", "worker.log"
_STARTING_S = 10.0
_LEAVING_S = 3.0  # a worker that has written its ending takes a moment to be gone


@dataclass
class _Followed:
    folded: FoldedJob
    reader: JournalReader

    def catch_up(self) -> None:
        for event in self.reader.new_lines():
            with contextlib.suppress(KeyError, TypeError, ValueError):  # a damaged line must not hide the job
                self.folded.feed(event)


def partial_folder(models_dir: Path, job: str) -> Path:
    """Where a job's model grows until it is whole; the leading dot hides it from the shelf."""
    return models_dir / f".partial-{job}"


class JobManager:
    """All jobs of one data folder."""

    def __init__(
        self,
        data_dir: Path,
        *,
        worker: str = "backend.jobs.worker",
        environment: Mapping[str, str] = MappingProxyType({}),
        place: str = "jobs",
    ) -> None:
        """``environment`` is added to each worker's: what it must know and no file may hold. ``place`` is the folder
        that keeps the jobs: those of one place take turns."""
        self._data_dir = data_dir
        self._worker = worker
        self._environment = dict(environment)
        self._jobs_dir = data_dir / place
        self._models_dir = data_dir / "models"
        self._followed: dict[str, _Followed] = {}
        self._given: dict[str, Mapping[str, str]] = {}
        self._guard = threading.Lock()

    def start(self, plan: Plan, *, environment: Mapping[str, str] | None = None) -> str:
        """Write a job folder and start its worker; return the job's id at once.

        ``environment`` is for this job's workers alone and forgotten with this manager: it may hold a token.

        Raises:
            JobError: another job makes a model of that name now.
            MachineError: the data folder cannot be written.
        """
        job = f"{time.strftime('%Y%m%d-%H%M%S')}-{plan.name}-{secrets.token_hex(2)}"
        folder = self._jobs_dir / job
        try:
            self._models_dir.mkdir(parents=True, exist_ok=True)
            self._jobs_dir.mkdir(parents=True, exist_ok=True)
            with self._starting():
                for other in self.views():
                    if other.model == plan.name and other.state.is_active:
                        raise JobError("job.same_name", name=plan.name)
                folder.mkdir(mode=0o700)
                (folder / PLAN).write_text(json.dumps(plan.to_json(), indent=1), encoding="utf-8")
                self._give(job, environment)
                self._launch(job)
        except OSError as problem:
            what = problem.strerror or str(problem)
            raise MachineError("job.cannot_write", folder=str(self._data_dir), what=what) from problem
        return job

    def _give(self, job: str, environment: Mapping[str, str] | None) -> None:
        if environment is not None:
            with self._guard:
                self._given[job] = dict(environment)

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        """Let one process at a time look for a job of the same name and start its own."""
        handle = try_lock(self._jobs_dir / "start.lock", patience_s=_STARTING_S)
        if handle is None:
            raise JobError("job.busy")
        try:
            yield
        finally:
            os.close(handle)

    def _launch(self, job: str) -> None:
        """Start a worker that inherits the job's lock, in its own session: it outlives page, server and terminal."""
        folder = self._jobs_dir / job
        handle = try_lock(folder / LOCK, patience_s=_LEAVING_S)
        if handle is None:
            raise JobError("job.running", job=job)
        try:
            (folder / CANCEL).unlink(missing_ok=True)
            journal = JournalWriter(folder / JOURNAL)  # the lock is ours: nobody else writes now
            journal.write("start")
            journal.close()
            with (folder / OUTPUT).open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", self._worker, str(folder), str(self._data_dir), str(handle)],
                    cwd=ROOT,
                    env={**os.environ, **self._environment, **self._given.get(job, {})},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(handle,),
                    start_new_session=True,
                )
        except OSError as problem:
            what = problem.strerror or str(problem)
            raise MachineError("job.cannot_write", folder=str(folder), what=what) from problem
        finally:
            os.close(handle)
        threading.Thread(target=process.wait, daemon=True, name=f"reap-{job}").start()

    def views(self) -> tuple[JobView, ...]:
        """Return every job, newest first. A folder that is not a readable job is left out."""
        if not self._jobs_dir.is_dir():
            return ()
        found = []
        for folder in sorted(self._jobs_dir.iterdir(), reverse=True):
            if folder.is_dir():
                with contextlib.suppress(JobError):
                    found.append(self.view(folder.name))
        return tuple(found)

    def damaged(self) -> dict[str, int]:
        """Return id -> bytes of the folders that hold no readable job; they can be deleted like one."""
        found = dict[str, int]()
        for folder in sorted(self._jobs_dir.iterdir()) if self._jobs_dir.is_dir() else ():
            if folder.name in self._followed or not folder.is_dir() or not _ID.fullmatch(folder.name):
                continue
            if not is_locked(folder / LOCK):
                try:
                    self.view(folder.name)
                except JobError:
                    found[folder.name] = disk_bytes(partial_folder(self._models_dir, folder.name))
        return found

    def view(self, job: str) -> JobView:
        """Return one job.

        Raises:
            JobError: there is none of that id.
        """
        folder = self._folder(job)
        with self._guard:
            followed = self._followed.get(job) or self._follow(folder)
            alive = is_locked(folder / LOCK)  # asked first: a worker that ends now has written its ending already
            followed.catch_up()
            self._followed[job] = followed
            partial = partial_folder(self._models_dir, job)
            leftover = disk_bytes(partial)
            return followed.folded.view(alive=alive, leftover_bytes=leftover, now=time.time())

    def _is_busy(self, job: str) -> bool:
        """Tell whether a job runs or waits; one whose plan is damaged does neither, and can be deleted."""
        with contextlib.suppress(JobError):
            return self.view(job).state.is_active
        return False

    def _folder(self, job: str) -> Path:
        folder = self._jobs_dir / job
        if not _ID.fullmatch(job) or not (folder / PLAN).is_file():
            raise JobError("job.unknown", job=job[:128])
        return folder

    def _follow(self, folder: Path) -> _Followed:
        try:
            plan = Plan.from_json(json.loads((folder / PLAN).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise JobError("job.damaged", job=folder.name, what=str(problem)[:200]) from problem
        return _Followed(FoldedJob(folder.name, plan), JournalReader(folder / JOURNAL))

    def plan(self, job: str) -> Plan:
        """Return what a job was asked to do.

        Raises:
            JobError: there is none of that id.
        """
        folder = self._folder(job)
        with self._guard:
            return (self._followed.get(job) or self._follow(folder)).folded.plan

    def pause(self, job: str) -> None:
        """Ask a job to stop; it does within about a second, keeps everything, and can be resumed.

        Raises:
            JobError: there is none of that id.
        """
        (self._folder(job) / CANCEL).touch()

    def resume(self, job: str, *, environment: Mapping[str, str] | None = None) -> None:
        """Start a worker where the journal ends; ``environment`` as for ``start``, None for what was given before.

        Raises:
            JobError: there is none of that id, it is running, or it is done.
        """
        view = self.view(job)
        if view.state is JobState.DONE:
            raise JobError("job.done", name=view.model)
        if view.state.is_active:
            raise JobError("job.running", job=job)
        self._give(job, environment)
        self._launch(job)

    def change(self, job: str, plan: Plan) -> None:
        """Replace what a stopped job was asked to do; the steps it has done stay done.

        Raises:
            JobError: there is none of that id, it is running, or it is done.
            MachineError: the data folder cannot be written.
        """
        view = self.view(job)
        if view.state is JobState.DONE:
            raise JobError("job.done", name=view.model)
        folder = self._folder(job)
        with self._held(folder):
            replace_file(folder / PLAN, json.dumps(plan.to_json(), indent=1).encode())
        with self._guard:
            self._followed.pop(job, None)

    def delete(self, job: str) -> None:
        """Remove a job that is not running, with its unfinished model. A finished model stays.

        Raises:
            JobError: there is none of that id, or it is running.
        """
        folder = self._jobs_dir / job
        if not _ID.fullmatch(job) or not folder.is_dir():
            raise JobError("job.unknown", job=job[:128])
        if self._is_busy(job):
            raise JobError("job.running", job=job)
        with self._held(folder):
            for leftover in (partial_folder(self._models_dir, job), folder):
                if leftover.exists():
                    shutil.rmtree(leftover)
        with self._guard:
            self._followed.pop(job, None)
            self._given.pop(job, None)

    @contextlib.contextmanager
    def _held(self, folder: Path) -> Iterator[None]:
        """Keep workers away from a job meanwhile.

        Raises:
            JobError: one has it.
            MachineError: the data folder cannot be written.
        """
        handle = try_lock(folder / LOCK, patience_s=_LEAVING_S)
        if handle is None:
            raise JobError("job.running", job=folder.name)
        try:
            yield
        except OSError as problem:
            what = problem.strerror or str(problem)
            raise MachineError("job.cannot_write", folder=str(self._data_dir), what=what) from problem
        finally:
            os.close(handle)
