"""Looking at a plan's sources before anything runs, in a process of its own: what they are, what they come to, and
what would go wrong.

Headers of weights are untrusted input, and reading them may need torch's numbers: neither belongs into the process that
serves the page. Knows nothing about how weights are opened; ``examiner`` is the child.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import error_from_json
from backend.plan import Plan
from backend.settings import ROOT
from backend.text import Message

_LOG = logging.getLogger("cria.jobs")
TIMEOUT_S = 30.0  # headers take a second; a network disk may sleep


@dataclass(frozen=True)
class Findings:
    """What is known about the result before a byte is written: its weights in ``bytes``, and what to show a person."""

    bytes: int
    parameters: int
    dtype: str
    template: str | None  # None: the layout or the kind of model brings its own
    notes: tuple[Message, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the inverse of ``from_json``."""
        return {**self.__dict__, "notes": [note.to_json() for note in self.notes]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Findings":
        """Build findings from what ``to_json`` returned."""
        return Findings(**{**data, "notes": tuple(map(Message.from_json, data["notes"]))})


def examine(plan: Plan, downloads: Path, *, timeout_s: float = TIMEOUT_S) -> Findings | None:
    """Open every source of a plan and put them together without reading the weights; return what that told.

    ``downloads`` is where fetched sources are. None: it could not be told now (too slow, not fetched yet, an archive
    that is still packed); the set-up itself will find out.

    Raises:
        CriaError: the set-up cannot work; the error says why and what to do.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "backend.jobs.examiner", str(downloads)],
            input=json.dumps(plan.to_json()),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return None
    except ValueError:  # it died before it could answer; the set-up itself will meet the cause again and say it
        _LOG.warning("looking at the sources of %s failed: %s", plan.name, done.stderr[-2000:])
        return None
    if "error" in answer:
        raise error_from_json(answer["error"])
    return Findings.from_json(answer["found"]) if answer["found"] else None
