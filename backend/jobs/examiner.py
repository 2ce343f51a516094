"""The child process that looks at a plan's sources: a plan comes in on stdin as JSON, findings or an error go out.

    python -m backend.jobs.examiner < PLAN

Writes nothing to the disk. Knows nothing about who asks.
"""

import json
import sys
from pathlib import Path

from backend.composition import compose, rehearse
from backend.errors import CriaError
from backend.jobs.examination import Findings
from backend.plan import Plan
from backend.sources.folder import open_source
from backend.weights.dtypes import CONFIG_NAMES


def _folder(spec: str) -> Path:
    return open_source(spec).folder


def look(plan: Plan) -> Findings | None:
    """Return what the sources of a plan come to; None while one of them is an archive that is still packed.

    Raises:
        CriaError: they cannot be put together.
    """
    if any(open_source(spec).packed for spec in plan.sources):
        return None
    checkpoint = compose(plan, _folder)
    template, notes = rehearse(plan, checkpoint, _folder)
    return Findings(
        bytes=checkpoint.nbytes,
        parameters=checkpoint.parameters,
        dtype=CONFIG_NAMES[checkpoint.dtype],
        template=template,
        notes=(*checkpoint.notes, *notes),
    )


def main() -> None:
    """Answer one question."""
    plan = Plan.from_json(json.load(sys.stdin))
    try:
        found = look(plan)
        answer = {"found": found.to_json() if found else None}
    except CriaError as problem:
        answer = {"error": problem.to_json()}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
