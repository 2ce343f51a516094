"""A journal folded into what people see: state, bars, speed, time left. Knows nothing about files or processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.errors import CriaError, error_from_json
from backend.events import FileProgress
from backend.jobs.view import CREEP, JobState, JobView, Sample, StepView
from backend.plan import Plan, Step
from backend.text import Message

_SMOOTHING_S = 3.0  # speed is averaged over about this long
_LOG_LINES = 200
_ENDINGS = {"done": JobState.DONE, "failed": JobState.FAILED, "cancelled": JobState.CANCELLED}


@dataclass
class _StepFold:
    plan: Step
    planned_s: float
    state: JobState = JobState.QUEUED
    began: float = 0.0
    last: float = 0.0
    done: int = 0
    total: int = 0
    speed: float | None = None
    memory: int = 0
    note: Message | None = None
    files: tuple[FileProgress, ...] = ()
    clock: float = 0.0  # the latest moment known, which may be later than the last event
    beside: "_StepFold | None" = None  # the step that was running when this one began, and may still be

    def begin(self, now: float, beside: "_StepFold | None") -> None:
        self.state, self.began, self.last, self.done, self.total = JobState.RUNNING, now, now, 0, 0
        self.clock, self.beside = now, beside
        self.speed, self.note, self.files = None, None, ()

    def progress(self, now: float, done: int, total: int) -> None:
        """Take a new position; the first one only sets the starting point, so that resumed bytes are not speed."""
        elapsed, moved = now - self.last, done - self.done
        if self.total and elapsed > 0 and moved >= 0:
            weight = min(1.0, elapsed / _SMOOTHING_S)
            rate = moved / elapsed
            self.speed = rate if self.speed is None else self.speed + weight * (rate - self.speed)
        self.last, self.done, self.total = now, done, total

    @property
    def fraction(self) -> float:
        if self.state is JobState.DONE:
            return 1.0
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def seconds(self) -> float:
        """Return seconds spent in the step so far."""
        return self.end - self.began

    @property
    def end(self) -> float:
        """Return when the step ended, or how late it is."""
        return max(self.last, self.clock) if self.state is JobState.RUNNING else self.last

    @property
    def own_seconds(self) -> float:
        """Return the seconds of the step in which the one beside it was not running as well."""
        if self.beside is None:
            return self.seconds
        return self.seconds - max(0.0, min(self.end, self.beside.end) - self.began)

    @property
    def share(self) -> float:
        """Return how much of the step's time is spent: its start-up by the clock, the rest by bytes."""
        if self.state is JobState.DONE:
            return 1.0
        if self.state is not JobState.RUNNING or not self.planned_s:
            return 0.0
        start = min(self.seconds, self.plan.fixed_s)
        if self.fraction > 0:
            start = max(start, self.plan.fixed_s * self.fraction)
        return (start + self.fraction * (self.planned_s - self.plan.fixed_s)) / self.planned_s

    @property
    def seconds_left(self) -> float | None:
        if self.state is JobState.DONE:
            return 0.0
        if self.speed and self.speed >= CREEP and self.total and not self.waits:
            return (self.total - self.done) / self.speed
        return None

    @property
    def waits(self) -> bool:
        """Whether its speed is only that of a step which it takes its bytes from."""
        return self.beside is not None and self.beside.state is JobState.RUNNING

    def view(self, state: JobState) -> StepView:
        shown = state if self.state is JobState.RUNNING else self.state
        return StepView(
            id=self.plan.id,
            title=self.plan.title,
            state=shown,
            done=self.done,
            total=self.total,
            bytes_per_s=self.speed if shown is JobState.RUNNING else None,
            seconds_left=self.seconds_left if shown is JobState.RUNNING else None,
            seconds=self.seconds,
            note=self.note if shown is JobState.RUNNING else None,
            planned_s=self.planned_s,
            planned_memory=self.plan.memory,
            memory=self.memory,
            files=self.files if shown is JobState.RUNNING else (),
        )


@dataclass
class FoldedJob:
    """Everything a journal said so far. Feed it events in order; ask it for a view."""

    id: str
    plan: Plan
    state: JobState = JobState.QUEUED
    started: float = 0.0
    began: float = 0.0  # of this run, Unix time
    pid: int = 0
    error: CriaError | None = None
    sample: Sample | None = None
    log: list[Message] = field(default_factory=list)
    steps: dict[str, _StepFold] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = {step.id: _StepFold(step, step.seconds(self.plan.rates)) for step in self.plan.steps}

    def finished(self, step: str) -> bool:
        """Tell whether a step is done, so that a resumed job need not do it again."""
        return step in self.steps and self.steps[step].state is JobState.DONE

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one journal event; unknown ones are ignored, so that an older Cria can read a newer journal."""
        kind, step = event["e"], self.steps.get(str(event.get("id")))
        if kind == "run":
            self.state, self.error = JobState.RUNNING, None
            for fold in self.steps.values():  # of a run that was killed
                fold.state = JobState.QUEUED if fold.state is JobState.RUNNING else fold.state
            self.pid, self.began = int(event.get("pid", 0)), float(event.get("t", 0.0))
            self.started = self.started or self.began
        elif kind in {"start", "queued"}:
            self.state, self.error = JobState.RUNNING if kind == "start" else JobState.QUEUED, None
        elif kind == "log":
            self.log = [*self.log, Message.from_json(event["message"])][-_LOG_LINES:]
        elif kind == "sample":
            cause = Message.from_json(event["cause"]) if event.get("cause") else None
            self.sample = Sample(str(event["question"]), str(event["answer"]), bool(event["stopped"]), cause)
        elif kind in _ENDINGS:
            self.state = _ENDINGS[kind]
            self.error = error_from_json(event["error"]) if "error" in event else None
        elif step is not None:
            self._feed_step(step, event)

    def _feed_step(self, step: _StepFold, event: Mapping[str, Any]) -> None:
        now = float(event.get("m", step.last))
        if event["e"] == "step":
            self.state = JobState.RUNNING
            running = (fold for fold in self.steps.values() if fold.state is JobState.RUNNING and fold is not step)
            step.begin(now, next(running, None))
        elif event["e"] == "progress":
            step.progress(now, int(event["done"]), int(event["total"]))
            if "note" in event:
                step.note = Message.from_json(event["note"])
            step.files = tuple(FileProgress(str(name), int(a), int(b)) for name, a, b in event.get("files", []))
        elif event["e"] == "step_done":
            step.state, step.last, step.memory = JobState.DONE, now, int(event.get("memory", 0))
            step.done, step.files = step.total, ()

    def view(self, *, alive: bool, leftover_bytes: int = 0, now: float | None = None) -> JobView:
        """Return the job as people see it. ``alive``: a worker holds the job's lock; ``now``: Unix time, if it runs on.

        A step that says nothing for a while (importing torch, say) still spends time, and its clock must show it.
        """
        state = self.state
        for fold in self.steps.values():
            if alive and now is not None and fold.state is JobState.RUNNING and self.began:
                fold.clock = max(fold.clock, fold.last, now - self.began)
        if not alive and state.is_active:
            state = JobState.INTERRUPTED
        planned = self.plan.seconds or 1.0
        fraction = sum(fold.share * fold.planned_s for fold in self.steps.values()) / planned
        return JobView(
            id=self.id,
            recipe=self.plan.recipe,
            title=self.plan.title,
            model=self.plan.name,
            state=state,
            steps=tuple(fold.view(state) for fold in self.steps.values()),
            fraction=1.0 if state is JobState.DONE else min(fraction, 0.999),
            seconds=sum(fold.own_seconds for fold in self.steps.values()),
            seconds_left=self._seconds_left() if state is JobState.RUNNING else None,
            log=tuple(self.log),
            error=self.error,
            started=self.started,
            ran=self.began,
            peak_memory=max((fold.memory for fold in self.steps.values()), default=0),
            leftover_bytes=leftover_bytes,
            sample=self.sample,
            holder=self.pid if alive else 0,
        )

    def _seconds_left(self) -> float | None:
        """Time left: what runs at its own speed, what is to come by the plan's guess; None while nothing moves."""
        left = 0.0
        for fold in self.steps.values():
            if fold.view(JobState.RUNNING).is_stalled and not fold.waits:
                return None
            if fold.state is JobState.RUNNING and fold.seconds_left is not None:
                left += fold.seconds_left
            elif fold.state is not JobState.DONE:
                left += fold.planned_s * (1 - fold.share)
        return left
