"""What a job looks like to anyone who asks: plain snapshots, derived from its journal. Knows no processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from backend.errors import CriaError
from backend.events import FileProgress
from backend.text import Message

CREEP = 1000.0  # bytes a second; less is standing still


class JobState(StrEnum):
    """Where a job stands. ``INTERRUPTED``: it was running, and nobody is running it any more."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_active(self) -> bool:
        """Whether somebody runs it, or it waits for its turn."""
        return self in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class StepView:
    """One step: its title, its bar (bytes), its speed and time left when they are known."""

    id: str
    title: Message
    state: JobState
    done: int = 0
    total: int = 0
    bytes_per_s: float | None = None
    seconds_left: float | None = None
    seconds: float = 0.0
    note: Message | None = None
    planned_s: float = 0.0
    planned_memory: int = 0
    memory: int = 0  # largest resident size of the worker during this step, 0 before it ends
    files: tuple[FileProgress, ...] = ()  # those on their way

    @property
    def is_stalled(self) -> bool:
        """Whether it runs and next to nothing moves, so that there is no telling when it ends."""
        return self.state is JobState.RUNNING and self.bytes_per_s is not None and self.bytes_per_s < CREEP


@dataclass(frozen=True)
class Sample:
    """What the self-test asked, what the model said, whether it stopped by itself, and if not, the likely cause."""

    question: str
    answer: str
    stopped: bool
    cause: Message | None = None


@dataclass(frozen=True)
class JobView:
    """A job as a page or a terminal shows it. ``fraction`` is of all steps together, by bytes."""

    id: str
    recipe: str
    title: Mapping[str, str]  # the recipe's, by language
    model: str
    state: JobState
    steps: tuple[StepView, ...] = ()
    fraction: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    log: tuple[Message, ...] = ()
    error: CriaError | None = None
    started: float = 0.0  # Unix time
    ran: float = 0.0  # Unix time: when its last run began
    peak_memory: int = 0  # bytes, largest resident size of the worker seen so far
    leftover_bytes: int = 0  # what deleting it would free
    sample: Sample | None = None
    holder: int = 0  # process id of the worker while one runs
