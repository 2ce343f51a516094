"""What each step of a job does: a generator of events over sources, weights and, for the try-out, an engine.

``STEPS`` maps a plan's step ids to these functions. Knows nothing about journals, bars or how a job is started.
"""

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backend.arrival import Output
from backend.composition import compose, rehearse
from backend.errors import CriaError, JobError, MachineError, WeightsError, unexpected
from backend.events import Event, Log, Progress
from backend.jobs.completing import finish
from backend.jobs.context import Context as Context
from backend.jobs.downloading import download
from backend.jobs.lean import REMOVED
from backend.jobs.narration import told
from backend.jobs.trial import Trial
from backend.plan import TRY, Plan
from backend.recipes import META
from backend.sources.archive import unpack
from backend.sources.arriving import Differs
from backend.sources.folder import check_source, fetch_bytes
from backend.sources.pace import Bucket
from backend.sources.source import Source
from backend.storage import free_bytes
from backend.text import Message
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import await_arrivals, source_file
from backend.weights.meta_save import planned_files, save_meta
from backend.weights.partial import publish
from backend.weights.provenance import Provenance, SelfTest, read_cria_json, write_cria_json
from backend.weights.verify import verify
from backend.weights.writer import plan_shards, save

Table = Mapping[str, Callable[[Context], Iterator[Event]]]
PUBLISH = "publish"  # not a step of the plan: what every job ends with


def fetch(context: Context) -> Iterator[Event]:
    """Download what is not here, unpack what is an archive, look at every source, compare what has a published sum; one
    bar over all of it.
    """
    access = context.access
    if remotes := context.remotes:
        bucket = context.arriving.bucket if context.arriving else Bucket(access.rate)
        yield from download(
            remotes,
            context.downloads,
            options=access.options,
            bucket=bucket,
            gate=context.lean.gate if context.lean else None,
            cancelled=context.cancelled,
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
        yield from told(_merge(context, context.folder), context.plan)
        return
    await_arrivals(context.arriving)
    while True:
        try:
            yield from told(_merge(context, context.stage), context.plan)
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
    lean, is_meta = context.lean, context.plan.layout == META
    if lean is not None and arriving is not None:
        most = lean.foresee(_outputs(checkpoint, is_meta=is_meta))
        yield Log(Message("lean.begins", {"bytes": most}))
    if is_meta:
        yield from save_meta(checkpoint, context.partial, cancelled=context.cancelled)
        if lean is not None:
            lean.made()
    else:
        made = lean.made if lean else lambda _: None
        yield from save(checkpoint, context.partial, cancelled=context.cancelled, finished=made)


def _outputs(checkpoint: Checkpoint, *, is_meta: bool) -> list[Output[Path]]:
    """Return what will be written, file by file; Meta's shards grow side by side."""
    if not is_meta:
        return [shard.output for shard in plan_shards(checkpoint)]
    files = frozenset(file.path for file in checkpoint.files)
    return [Output(sum(planned_files(checkpoint).values()), frozenset(), files)]


def _rehearsed(plan: Plan, folder: Callable[[str], Path]) -> Checkpoint:
    checkpoint = compose(plan, folder)
    rehearse(plan, checkpoint, folder)
    return checkpoint


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
    if context.lean is not None:
        context.lean.finish()
    for scratch in (context.unpacked, context.staged, context.partial / REMOVED):  # of runs that were killed, too
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
