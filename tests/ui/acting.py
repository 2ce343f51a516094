"""Jobs played by actors: a real ``JobManager`` whose workers are threads that write a scripted journal, quickly.

The page sees real folders, journals and locks; only the heavy work is missing.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from backend.errors import SourceError
from backend.jobs.journal import JournalWriter
from backend.jobs.manager import CANCEL, JOURNAL, LOCK, JobManager, partial_folder
from backend.locks import try_lock
from backend.plan import Plan
from backend.text import Message

Script = Callable[["Stage"], None]


class Stopped(Exception):
    """The actor was asked to stop."""


class Stage:
    """What an actor can do: walk a plan's steps, and look out for a request to stop."""

    def __init__(self, manager: "ActedJobs", job: str, plan: Plan) -> None:
        self.manager, self.job, self.plan = manager, job, plan
        self.folder = manager.jobs_dir / job
        self.journal = JournalWriter(self.folder / JOURNAL)

    def check(self) -> None:
        if (self.folder / CANCEL).exists():
            raise Stopped

    def step(self, number: int, *, until: float = 1.0, pause: float = 0.0) -> None:
        """Play one step up to a part of it; a whole one is done."""
        step, total = self.plan.steps[number], 1_000_000
        self.journal.write("step", id=step.id, m=float(number))
        for part in range(1, 11):
            self.check()
            if part / 10 > until:
                return
            note = Message("sources.reading", {"file": "consolidated.00.pth"}).to_json()
            moment = number + part / 10
            self.journal.write("progress", id=step.id, m=moment, done=total * part // 10, total=total, note=note)
            time.sleep(pause)
        self.journal.write("step_done", id=step.id, m=number + 1.0, memory=123_000_000)

    def finish(self) -> None:
        """Put the model on the shelf and say that the job is done."""
        model = self.manager.models_dir / self.plan.name
        model.mkdir(parents=True)
        (model / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        (model / "model.safetensors").write_bytes(b"\0" * 64)
        self.journal.write("sample", question="Hello!", answer="Hello, <b>friend</b>!", stopped=True)
        self.journal.write("done")


def whole(stage: Stage, *, pause: float = 0.0) -> None:
    """Everything goes well."""
    for number in range(len(stage.plan.steps)):
        stage.step(number, pause=pause)
        stage.journal.write(
            "log", message=Message("sources.checked", {"source": "builtin:demo/base", "count": 4}).to_json()
        )
    stage.finish()


def halfway(stage: Stage) -> None:
    """Stands in the middle of the second step until asked to stop; goes to the end when resumed."""
    if "cancelled" in (stage.folder / JOURNAL).read_text(encoding="utf-8"):
        whole(stage)
        return
    stage.step(0)
    stage.step(1, until=0.5)
    partial = partial_folder(stage.manager.models_dir, stage.job)
    partial.mkdir(exist_ok=True)
    (partial / "half.safetensors").write_bytes(b"\0" * 2_000_000)
    while True:
        stage.check()
        time.sleep(0.01)


DAMAGED = SourceError("sources.checksum", file="<i>consolidated.00.pth</i>", source="/raw", want="aa", have="bb")


def failing(stage: Stage, problem: SourceError = DAMAGED) -> None:
    """Meets a damaged file, or other trouble, in its first step; the second attempt goes well."""
    if "failed" in (stage.folder / JOURNAL).read_text(encoding="utf-8"):
        whole(stage)
        return
    stage.step(0, until=0.3)
    raise problem


class ActedJobs(JobManager):
    """A job manager with a script in place of the worker."""

    def __init__(self, data_dir: Path, script: Script) -> None:
        super().__init__(data_dir)
        self.jobs_dir, self.models_dir, self.script = data_dir / "jobs", data_dir / "models", script
        self.actors: list[threading.Thread] = []

    def _launch(self, job: str) -> None:
        folder = self.jobs_dir / job
        handle = try_lock(folder / LOCK)
        assert handle is not None
        (folder / CANCEL).unlink(missing_ok=True)
        actor = threading.Thread(target=self._play, args=(job, handle), daemon=True)
        self.actors.append(actor)
        actor.start()

    def _play(self, job: str, handle: int) -> None:
        stage = Stage(self, job, self.plan(job))
        try:
            stage.journal.write("run", pid=os.getpid(), t=time.time())
            self.script(stage)
        except Stopped:
            stage.journal.write("cancelled")
        except SourceError as problem:
            stage.journal.write("failed", error=problem.to_json())
        finally:
            stage.journal.close()
            os.close(handle)

    def join(self) -> None:
        """Wait until every actor has left the stage."""
        for actor in self.actors:
            actor.join(timeout=20)
            assert not actor.is_alive()
