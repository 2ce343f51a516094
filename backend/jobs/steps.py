"""What each step of a job does: a generator of events over sources, weights and, for the try-out, an engine.

``STEPS`` maps a plan's step ids to these functions. Knows nothing about journals, bars or how a job is started.
"""

import asyncio
import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.engines.base import ChatMessage, EngineOptions, EngineState, Finish, Sampling
from backend.engines.supervisor import Supervisor
from backend.errors import Cancelled, CriaError, EngineError, MachineError, unexpected
from backend.events import Event, Log, Progress
from backend.jobs.view import Sample
from backend.plan import Plan
from backend.sources.folder import check_source, open_source
from backend.text import Message
from backend.weights.checkpoint import Checkpoint

GREETING = "Hello!"
_TRY = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=200)
_START_TIMEOUT_S = 900.0
_POLL_S = 0.1


@dataclass
class Context:
    """What a job's steps share. ``sample`` and ``child_memory`` are filled in by the try-out."""

    plan: Plan
    models_dir: Path
    partial: Path
    logs_dir: Path
    cancelled: Callable[[], bool]
    sample: Sample | None = None
    child_memory: int = 0

    @property
    def sources(self) -> list[str]:
        """Every source of the plan, in the order they are used."""
        plan = self.plan
        return [plan.base, *([plan.delta] if plan.delta else []), *(source for source, _ in plan.loras)]
