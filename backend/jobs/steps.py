"""What each step of a job does: a generator of events over sources, weights and, for the try-out, an engine.

``STEPS`` maps a plan's step ids to these functions. Knows nothing about journals, bars or how a job is started.
"""

import asyncio
import contextlib
import errno
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from backend.engines.base import ChatMessage, EngineOptions, EngineState, Finish, Sampling
from backend.errors import Cancelled, CriaError, EngineError, JobError, MachineError, unexpected
from backend.events import Event, Log, Progress
from backend.jobs.view import Sample
from backend.plan import Plan
from backend.sources.folder import builtin_path, check_source, open_source
from backend.text import Message
from backend.weights.checkpoint import Checkpoint
from backend.weights.delta import add_delta
from backend.weights.dtypes import CONFIG_NAMES
from backend.weights.finish import finish_folder
from backend.weights.lora import add_lora
from backend.weights.opening import open_checkpoint
from backend.weights.partial import publish
from backend.weights.provenance import Origin, Provenance, SelfTest, read_cria_json, write_cria_json
from backend.weights.verify import verify
from backend.weights.writer import save, written

if TYPE_CHECKING:
    from backend.engines.supervisor import Supervisor

GREETING = "Hello!"
_TRY = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=200)
_START_TIMEOUT_S = 1800.0
_POLL_S = 0.1
_MAX_QUESTIONS = 200


@dataclass
class Context:
    """What a job's steps share. ``sample`` and ``child_memory`` (bytes) are filled in by the try-out."""

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


Table = Mapping[str, Callable[[Context], Iterator[Event]]]
PUBLISH = "publish"  # not a step of the plan: what every job ends with


def fetch(context: Context) -> Iterator[Event]:
    """Read every source through once; one bar over all of them."""
    sources = [open_source(spec) for spec in context.sources]
    total, before = sum(source.bytes for source in sources), 0
    for source in sources:
        for event in check_source(source, cancelled=context.cancelled):
            if isinstance(event, Progress):
                yield Progress(before + event.done, total, event.note)
            else:
                yield event
        before += source.bytes


def merge(context: Context) -> Iterator[Event]:
    """Convert, add the delta and fold in the LoRAs in one pass over the bytes, into the unfinished folder."""
    checkpoint = _checkpoint(context)
    for note in checkpoint.notes:
        yield Log(note)
    yield from save(checkpoint, context.partial, cancelled=context.cancelled)


def _folder(spec: str) -> Path:
    return open_source(spec).folder


def _checkpoint(context: Context) -> Checkpoint:
    plan = context.plan
    checkpoint = open_checkpoint(_folder(plan.base))
    if plan.delta:
        checkpoint = add_delta(checkpoint, open_checkpoint(_folder(plan.delta)))
    for source, scale in plan.loras:
        checkpoint = add_lora(checkpoint, _folder(source), scale=scale)
    return checkpoint


def finish(context: Context) -> Iterator[Event]:
    """Repair the tokenizer, write the configuration, and note where everything came from."""
    plan, checkpoint = context.plan, _checkpoint(context)
    folders = [_folder(spec) for spec in reversed(context.sources)]  # the last LoRA knows the vocabulary best
    finished = finish_folder(
        checkpoint,
        context.partial,
        sources=folders,
        template=plan.template,
        context=plan.context,
        has_delta=plan.delta is not None,
    )
    for note in finished.notes:
        yield Log(note)
    provenance = Provenance(
        recipe=plan.recipe,
        origins=tuple(_origins(plan)),
        template=finished.template.name,
        system=finished.template.system,
        stops=finished.template.stops,
        context=finished.context,
        parameters=checkpoint.parameters,
        dtype=CONFIG_NAMES[checkpoint.dtype],
        questions=tuple(_questions(plan.questions)),
        notes=(*checkpoint.notes, *finished.notes),
    )
    write_cria_json(context.partial, provenance, sha256=written(context.partial))
    yield Progress(1, 1)


def _origins(plan: Plan) -> Iterator[Origin]:
    parts = [("base", plan.base, None), *([("delta", plan.delta, None)] if plan.delta else [])]
    for role, spec, scale in [*parts, *(("lora", spec, scale) for spec, scale in plan.loras)]:
        yield Origin(role, spec, scale, tuple((file.name, file.size) for file in open_source(spec).files))


def _questions(spec: str | None) -> Iterator[tuple[str, str]]:
    """Read the questions to suggest: a JSON list of {"lang": ..., "question": ...}."""
    path = builtin_path(spec) if spec else None
    rows = json.loads(path.read_text(encoding="utf-8")) if path else []
    for row in rows[:_MAX_QUESTIONS]:
        yield str(row["lang"]), str(row["question"])


def verify_it(context: Context) -> Iterator[Event]:
    """Read the unfinished folder back and compare it with what was meant to be written."""
    yield from verify(context.partial, _provenance(context).files, cancelled=context.cancelled)


def _provenance(context: Context) -> Provenance:
    found = read_cria_json(context.partial)
    if found is None:
        raise JobError("job.lost_folder", folder=str(context.partial))
    return found


def try_it(context: Context) -> Iterator[Event]:
    """Load the unfinished folder in an engine of its own, greet it, and note whether it stops by itself."""
    # Imported here so that converting and merging stay small in memory: this brings the HTTP client.
    from backend.engines.supervisor import Supervisor

    engine = Supervisor(context.logs_dir)
    try:
        try:
            engine.load(context.partial, EngineOptions())
            yield from _wait_until_ready(context, engine)
        except MachineError as problem:  # merging needs little memory, running a model much: what was made is good
            yield Log(problem.message)
            yield Log(Message("steps.not_tried"))
            return
        context.sample = asyncio.run(_greet(context, engine))
        context.child_memory = max(context.child_memory, engine.status().memory_bytes)
    finally:
        engine.close()
    key = "steps.stopped" if context.sample.stopped else "steps.ran_on"
    yield Log(Message(key, {"template": context.plan.template}))


def _wait_until_ready(context: Context, engine: "Supervisor") -> Iterator[Event]:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (status := engine.status()).state is not EngineState.READY:
        if context.cancelled():
            raise Cancelled("job.cancelled")
        if status.error is not None:
            raise status.error
        if time.monotonic() > deadline:
            raise EngineError("steps.try_timeout", seconds=_START_TIMEOUT_S)
        context.child_memory = max(context.child_memory, status.memory_bytes)
        yield Progress(status.loaded_bytes, max(status.total_bytes, 1), Message("steps.loading"))
        time.sleep(_POLL_S)
    yield Progress(status.total_bytes, max(status.total_bytes, 1), Message("steps.greeting", {"question": GREETING}))


async def _greet(context: Context, engine: "Supervisor") -> Sample:
    text, stopped = "", False
    pieces = engine.chat([ChatMessage("user", GREETING)], _TRY)
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            text += piece.text
            stopped = piece.finish is Finish.STOP
            if context.cancelled():
                raise Cancelled("job.cancelled")
    return Sample(GREETING, text.strip(), stopped)


def put_on_shelf(context: Context) -> Iterator[Event]:
    """Write down how the try-out went and give the folder its name: from here on it is a model."""
    final = context.models_dir / context.plan.name
    if not context.partial.exists() and final.is_dir():
        return  # an earlier run got this far and could not say so any more
    provenance, sample = _provenance(context), context.sample
    test = SelfTest(True, sample.stopped, sample.question, sample.answer) if sample else None
    write_cria_json(context.partial, replace(provenance, self_test=test))
    publish(context.partial, final)
    yield Log(Message("steps.on_shelf", {"name": context.plan.name}))


def explain(problem: Exception, *, folder: Path) -> CriaError:
    """Turn an exception that no step foresaw into a sentence; a full disk and spent memory have their own."""
    if isinstance(problem, MemoryError):
        return MachineError("job.memory")
    if isinstance(problem, OSError):
        what = problem.strerror or str(problem)
        if problem.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            return MachineError("job.disk_full", what=what)
        return MachineError("job.cannot_write", folder=str(problem.filename or folder), what=what)
    return unexpected(problem)


STEPS: Table = {
    "fetch": fetch,
    "merge": merge,
    "finish": finish,
    "verify": verify_it,
    "try": try_it,
    PUBLISH: put_on_shelf,
}
