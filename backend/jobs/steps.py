"""What each step of a job does: a generator of events over sources, weights and, for the try-out, an engine.

``STEPS`` maps a plan's step ids to these functions. Knows nothing about journals, bars or how a job is started.
"""

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from backend.composition import compose, folders, rehearse
from backend.errors import CriaError, JobError, MachineError, SourceError, WeightsError, unexpected
from backend.events import Event, Log, Progress
from backend.jobs.downloading import download
from backend.jobs.trial import Trial
from backend.jobs.view import Sample
from backend.plan import TRY, Plan
from backend.recipes import META
from backend.sources.access import Access
from backend.sources.archive import unpack
from backend.sources.arriving import Arriving, Differs
from backend.sources.folder import builtin_path, check_source, fetch_bytes, open_source
from backend.sources.pace import Bucket
from backend.sources.source import Source
from backend.storage import free_bytes
from backend.text import Message
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import await_arrivals, source_file
from backend.weights.dtypes import CONFIG_NAMES
from backend.weights.finish import Finished, finish_folder, rehearse_finish
from backend.weights.meta_finish import finish_meta
from backend.weights.meta_save import save_meta
from backend.weights.partial import publish
from backend.weights.provenance import Origin, Provenance, SelfTest, read_cria_json, write_cria_json
from backend.weights.verify import verify
from backend.weights.writer import save, written

_MAX_QUESTIONS = 200


@dataclass
class Context:
    """What a job's steps share. ``sample`` and ``child_memory`` (bytes) are filled in by the try-out."""

    plan: Plan
    models_dir: Path
    partial: Path
    logs_dir: Path
    cancelled: Callable[[], bool]
    downloads: Path
    access: Access = field(default_factory=Access)
    sample: Sample | None = None
    child_memory: int = 0
    arriving: Arriving | None = None  # while merging does not wait for the last byte

    @property
    def unpacked(self) -> Path:
        """Where archives among the sources are unpacked; gone before the model is on the shelf."""
        return self.partial / ".sources"

    @property
    def staged(self) -> Path:
        """Where stand-ins are for files that are on their way; gone before the model is on the shelf."""
        return self.partial / ".arriving"

    def open(self, spec: str) -> Source:
        """Open a source of the plan; an archive is the folder that it was unpacked to."""
        pinned = self.plan.pinned(spec)
        if pinned is None:
            return open_source(spec, unpacked=self.unpacked)
        return pinned.source(self.downloads, unpacked=self.unpacked)

    def stage(self, spec: str) -> Path:
        """Return the folder of a source of the plan while it may still be on its way."""
        pinned = self.plan.pinned(spec)
        if pinned is None or self.arriving is None:
            return self.folder(spec)
        return self.arriving.folder(pinned.folder(self.downloads))

    def folder(self, spec: str) -> Path:
        """Return the folder with the files of a source of the plan.

        Raises:
            SourceError: it is an archive, and what was unpacked of it is gone.
        """
        source = self.open(spec)
        if source.packed:
            raise SourceError("archive.changed", source=spec)
        return source.folder


Table = Mapping[str, Callable[[Context], Iterator[Event]]]
PUBLISH = "publish"  # not a step of the plan: what every job ends with


def fetch(context: Context) -> Iterator[Event]:
    """Download what is not here, unpack what is an archive, look at every source, compare what has a published sum; one
    bar over all of it.
    """
    plan, access = context.plan, context.access
    if plan.remotes:
        bucket = context.arriving.bucket if context.arriving else Bucket(access.rate)
        yield from download(
            plan.remotes, context.downloads, options=access.options, bucket=bucket, cancelled=context.cancelled
        )
    sources = [context.open(spec) for spec in dict.fromkeys(context.plan.sources)]
    here = [source for source in sources if source.packed or context.plan.pinned(source.spec) is None]
    sizes = [source.bytes if source.packed else fetch_bytes(source)[0] for source in here]
    yield from _in_one_bar([(size, _checked(context, source)) for size, source in zip(sizes, here, strict=True)])


def _in_one_bar(parts: Sequence[tuple[int, Iterator[Event]]]) -> Iterator[Event]:
    """Run works of so many bytes one after the other, with their progress counted together."""
    total, before = sum(size for size, _ in parts), 0
    for size, events in parts:
        for event in events:
            if isinstance(event, Progress):
                yield replace(event, done=min(before + event.done, total), total=total)
            else:
                yield event
        before += size


def _checked(context: Context, source: Source) -> Iterator[Event]:
    if source.packed:
        yield from unpack(source, context.unpacked, cancelled=context.cancelled)
        source = context.open(source.spec)
    yield from check_source(source, look=source_file, cancelled=context.cancelled)


def merge(context: Context) -> Iterator[Event]:
    """Convert, add the delta and fold in the LoRAs in one pass over the bytes, into the unfinished folder."""
    if context.arriving is None:
        yield from _merge(context, context.folder)
        return
    await_arrivals(context.arriving)
    while True:
        try:
            yield from _merge(context, context.stage)
        except Differs:  # a server had shown another beginning of a file than the proven one: once more, with that
            continue
        return


def _merge(context: Context, folder: Callable[[str], Path]) -> Iterator[Event]:
    arriving = context.arriving
    if arriving is not None:
        yield Progress(0, 0, Message("arriving.looking"))
        arriving.prepare()
    try:
        checkpoint = _rehearsed(context.plan, folder)
    except WeightsError:
        # What was seen so early has not been proven: it is looked at again before it decides anything.
        if arriving is None or not arriving.forget():
            raise
        checkpoint = _rehearsed(context.plan, folder)
    if arriving is not None:
        arriving.settle()
    for note in checkpoint.notes:
        yield Log(note)
    write = save_meta if context.plan.layout == META else save
    yield from write(checkpoint, context.partial, cancelled=context.cancelled)


def _rehearsed(plan: Plan, folder: Callable[[str], Path]) -> Checkpoint:
    checkpoint = compose(plan, folder)
    rehearse(plan, checkpoint, folder)
    return checkpoint


def finish(context: Context) -> Iterator[Event]:
    """Repair the tokenizer, write the configuration, and note where everything came from."""
    plan = context.plan
    checkpoint = compose(plan, context.folder)
    finished = _finished(context, checkpoint)
    for note in finished.notes:
        yield Log(note)
    provenance = Provenance(
        recipe=plan.recipe,
        origins=tuple(_origins(context)),
        template=finished.template.name,
        system=finished.template.system,
        stops=finished.template.stops,
        context=finished.context,
        parameters=checkpoint.parameters,
        dtype=CONFIG_NAMES[checkpoint.dtype],
        questions=tuple(_questions(plan.questions)),
        notes=(*checkpoint.notes, *finished.notes),
        layout=plan.layout,
    )
    write_cria_json(context.partial, provenance, sha256=written(context.partial))
    yield Progress(1, 1)


def _finished(context: Context, checkpoint: Checkpoint) -> Finished:
    plan, sources = context.plan, folders(context.plan, context.folder)
    if plan.layout == META:
        # The layout has no place for a template; cria.json keeps it for whoever converts the folder back.
        template, _ = rehearse_finish(checkpoint, sources, template=plan.template, has_delta=plan.delta is not None)
        notes = finish_meta(checkpoint, context.partial, sources=sources)
        return Finished(template, plan.context or checkpoint.shape.max_positions, notes)
    return finish_folder(
        checkpoint,
        context.partial,
        sources=sources,
        template=plan.template,
        context=plan.context,
        has_delta=plan.delta is not None,
    )


def _origins(context: Context) -> Iterator[Origin]:
    plan = context.plan
    parts = [("base", plan.base, None), *([("delta", plan.delta, None)] if plan.delta else [])]
    for role, spec, scale in [*parts, *(("lora", spec, scale) for spec, scale in plan.loras)]:
        yield Origin(role, spec, scale, tuple((file.name, file.size) for file in context.open(spec).files))


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
    """Load the unfinished folder and greet it."""
    trial = Trial(context.partial, context.logs_dir, context.cancelled)
    yield from trial.run()
    context.sample, context.child_memory = trial.sample, trial.memory


def put_on_shelf(context: Context) -> Iterator[Event]:
    """Write down how the try-out went and give the folder its name: from here on it is a model."""
    final = context.models_dir / context.plan.name
    if not context.partial.exists() and final.is_dir():
        return  # an earlier run got this far and could not say so any more
    provenance, sample = _provenance(context), context.sample
    test = None
    if sample:
        works = sample.stopped or bool(sample.answer)
        test = SelfTest(works, sample.stopped, sample.question, sample.answer, sample.cause)
    write_cria_json(context.partial, replace(provenance, self_test=test))
    for scratch in (context.unpacked, context.staged):  # a run that was killed may have left the second one
        if scratch.exists():
            shutil.rmtree(scratch)
    publish(context.partial, final)
    yield Log(Message("steps.on_shelf", {"name": context.plan.name}))


def explain(problem: Exception, *, folder: Path) -> CriaError:
    """Turn an exception that no step foresaw into a sentence; a full disk and spent memory have their own."""
    if isinstance(problem, MemoryError):
        return MachineError("job.memory")
    if isinstance(problem, OSError):
        what = problem.strerror or str(problem)
        if problem.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            return MachineError("job.disk_full", what=what, folder=str(folder), free=free_bytes(folder))
        return MachineError("job.cannot_write", folder=str(problem.filename or folder), what=what)
    return unexpected(problem)


STEPS: Table = {
    "fetch": fetch,
    "merge": merge,
    "finish": finish,
    "verify": verify_it,
    TRY: try_it,
    PUBLISH: put_on_shelf,
}
