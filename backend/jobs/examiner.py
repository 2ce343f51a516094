"""The child process that looks at a plan's sources: a plan comes in on stdin as JSON, findings or an error go out.

    python -m backend.jobs.examiner DOWNLOADS < PLAN

Writes nothing to the disk. Knows nothing about who asks.
"""

import json
import sys
from pathlib import Path

from backend.composition import compose, rehearse
from backend.errors import CriaError
from backend.jobs.examination import Findings
from backend.plan import Plan
from backend.recipes import META
from backend.sources.folder import open_source
from backend.sources.source import Source
from backend.sources.store import is_complete
from backend.weights.dtypes import CONFIG_NAMES
from backend.weights.meta_save import planned_files


def look(plan: Plan, downloads: Path) -> Findings | None:
    """Return what the sources of a plan come to; None while one of them is not fetched, or packed in an archive.

    Raises:
        CriaError: they cannot be put together.
    """
    for remote in plan.remotes:
        if not is_complete(remote.folder(downloads), remote.listing):
            return None
    sources = {spec: _open(plan, spec, downloads) for spec in plan.sources}
    if any(source.packed for source in sources.values()):
        return None

    def folder(spec: str) -> Path:
        return sources[spec].folder

    checkpoint = compose(plan, folder)
    template, notes = rehearse(plan, checkpoint, folder)
    return Findings(
        bytes=sum(planned_files(checkpoint).values()) if plan.layout == META else checkpoint.nbytes,
        parameters=checkpoint.parameters,
        dtype=CONFIG_NAMES[checkpoint.dtype],
        template=template,
        notes=(*checkpoint.notes, *notes),
    )


def _open(plan: Plan, spec: str, downloads: Path) -> Source:
    pinned = plan.pinned(spec)
    return pinned.source(downloads) if pinned else open_source(spec)


def main() -> None:
    """Answer one question."""
    plan = Plan.from_json(json.load(sys.stdin))
    try:
        found = look(plan, Path(sys.argv[1]))
        answer = {"found": found.to_json() if found else None}
    except CriaError as problem:
        answer = {"error": problem.to_json()}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
