"""Completing a model folder once its weights are written: tokenizer, settings, and the note where all of it came from.

Knows nothing about journals, or how the weights came about.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.composition import compose, folders
from backend.errors import JobError
from backend.events import Event, Log, Progress
from backend.jobs.context import Context
from backend.recipes import META
from backend.sources.arriving import NeededAgain
from backend.sources.folder import builtin_path
from backend.sources.pace import Bucket
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import await_arrivals
from backend.weights.dtypes import CONFIG_NAMES
from backend.weights.finish import Finished, finish_folder, rehearse_finish
from backend.weights.meta_finish import finish_meta
from backend.weights.provenance import Origin, Provenance, write_cria_json
from backend.weights.writer import written

_MAX_QUESTIONS = 200


def finish(context: Context) -> Iterator[Event]:
    """Repair the tokenizer, write the configuration, and note where everything came from.

    Raises:
        JobError: a source file is needed again that was removed; Resume fetches it.
    """
    plan = context.plan
    with _sources(context) as folder:
        checkpoint = compose(plan, folder)
        finished = _finished(context, checkpoint, folder)
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


@contextmanager
def _sources(context: Context) -> Iterator[Callable[[str], Path]]:
    """Give the folders of the sources; where files were removed, stand-ins with what is remembered of them."""
    if context.lean is None or not context.lean.has_removed:
        yield context.folder
        return
    arriving = context.make_arriving(context.cancelled, bucket=Bucket(None))

    def folder(spec: str) -> Path:
        pinned = context.plan.pinned(spec)
        return context.folder(spec) if pinned is None else arriving.folder(pinned.folder(context.downloads))

    try:
        arriving.prepare()
        await_arrivals(arriving)
        yield folder
    except NeededAgain as problem:
        raise JobError("lean.again", file=str(problem)) from problem
    finally:
        await_arrivals(None)
        arriving.close()


def _finished(context: Context, checkpoint: Checkpoint, folder: Callable[[str], Path]) -> Finished:
    plan, sources = context.plan, folders(context.plan, folder)
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
        pinned = plan.pinned(spec)
        listed = pinned.listing.files if pinned else ()
        # Of what was fetched the listing tells, whether or not the files are still here; an archive is what was in it.
        files = context.open(spec).files if pinned is None or len(listed) == 1 else listed
        yield Origin(
            role,
            spec,
            scale,
            tuple((file.name, file.size) for file in files),
            revision=pinned.listing.revision if pinned else "",
            sums={file.name: file.identity for file in listed},
        )


def _questions(spec: str | None) -> Iterator[tuple[str, str]]:
    """Read the questions to suggest: a JSON list of {"lang": ..., "question": ...}."""
    path = builtin_path(spec) if spec else None
    rows = json.loads(path.read_text(encoding="utf-8")) if path else []
    for row in rows[:_MAX_QUESTIONS]:
        yield str(row["lang"]), str(row["question"])
