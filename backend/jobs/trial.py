"""The try-out of a finished folder: loaded in an engine of its own, greeted, and watched whether it stops by itself.

Knows nothing about plans, journals or how the folder was made.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from backend.engines.base import ChatMessage, EngineOptions, EngineState, Finish, Sampling
from backend.errors import Cancelled, EngineError, MachineError, WeightsError
from backend.events import Event, Log, Progress
from backend.jobs.view import Sample
from backend.text import Message
from backend.weights.likely_cause import likely_cause

if TYPE_CHECKING:
    from backend.engines.supervisor import Supervisor

GREETING = "Hello!"
_SAMPLING = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=200)
_START_TIMEOUT_S = 1800.0
_POLL_S = 0.1
# The one that loads a folder as it is: llama.cpp would first write a copy of all weights, wanted or not.
_ENGINE = "transformers"
_NOT_NUMBERS = "engine.not_numbers"  # what the engine says when logits are not finite
_NOT_RUNNABLE = "finish.not_runnable"  # and about a kind of model that it does not know


@dataclass
class Trial:
    """One try-out; ``run`` fills in ``sample`` (None: not tried) and ``memory``, the engine's largest in bytes."""

    folder: Path
    logs_dir: Path
    cancelled: Callable[[], bool]
    sample: Sample | None = field(default=None, init=False)
    memory: int = field(default=0, init=False)

    def run(self) -> Iterator[Event]:
        """Load, greet, unload.

        Raises:
            EngineError, WeightsError: the engine cannot load the folder.
            Cancelled: ``cancelled`` said so.
        """
        # Imported here so that converting and merging stay small in memory: this brings the HTTP client.
        from backend.engines.supervisor import Supervisor

        engine = Supervisor(self.logs_dir)
        try:
            engine.load(self.folder, EngineOptions(engine=_ENGINE))
            yield from self._wait_until_ready(engine)
            self.sample = self._greet(engine)
            self.memory = max(self.memory, engine.status().memory_bytes)
        except MachineError as problem:  # merging needs little memory, running a model much: what was made is good
            yield Log(problem.message)
            yield Log(Message("steps.not_tried"))
            return
        except WeightsError as problem:
            if problem.key != _NOT_RUNNABLE:
                raise
            yield Log(problem.message)  # a kind of model that other engines run: the folder is as good as any
            return
        except EngineError as problem:
            if problem.key != _NOT_NUMBERS:
                raise
            self.sample = self._broken(problem)  # noticed while loading already
        finally:
            engine.close()
        yield Log(Message("steps.stopped" if self.sample.stopped else "steps.ran_on"))
        if self.sample.cause is not None:
            yield Log(self.sample.cause)

    def _wait_until_ready(self, engine: "Supervisor") -> Iterator[Event]:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while (status := engine.status()).state is not EngineState.READY:
            if self.cancelled():
                raise Cancelled("job.cancelled")
            if status.error is not None:
                raise status.error
            if time.monotonic() > deadline:
                raise EngineError("steps.try_timeout", seconds=_START_TIMEOUT_S)
            self.memory = max(self.memory, status.memory_bytes)
            yield Progress(status.loaded_bytes, max(status.total_bytes, 1), Message("steps.loading"))
            time.sleep(_POLL_S)
        yield Progress(
            status.total_bytes, max(status.total_bytes, 1), Message("steps.greeting", {"question": GREETING})
        )

    def _greet(self, engine: "Supervisor") -> Sample:
        """Return what the model said. One that loads and cannot answer or stop is kept, marked with the reason."""
        try:
            text, stopped = asyncio.run(self._answer(engine))
        except EngineError as problem:
            return self._broken(problem)
        cause = None if stopped else likely_cause(self.folder, answer=text)
        return Sample(GREETING, text, stopped, cause)

    def _broken(self, problem: EngineError) -> Sample:
        finite = problem.key != _NOT_NUMBERS
        cause = problem.message if finite else likely_cause(self.folder, answer="", finite=False)
        return Sample(GREETING, "", stopped=False, cause=cause)

    async def _answer(self, engine: "Supervisor") -> tuple[str, bool]:
        text, stopped = "", False
        async with contextlib.aclosing(engine.chat([ChatMessage("user", GREETING)], _SAMPLING)) as pieces:
            async for piece in pieces:
                text += piece.text
                stopped = piece.finish is Finish.STOP
                if self.cancelled():
                    raise Cancelled("job.cancelled")
        return text.strip(), stopped
