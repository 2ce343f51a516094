"""The child that opens folders nobody vouches for: looks into them or repairs one, and answers in JSON lines.

    python -m backend.library.child    < {"do": "examine" | "repair" | "undo", "folders": [...], "template": ...}

One line of ``{"folder", "found"}`` for each folder that was looked into, as soon as it is known; ``{"notes"}`` after a
repair; ``{"error"}`` when that failed. Knows nothing about shelves or pages.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backend.errors import CriaError, UsageError, unexpected
from backend.library.condition import Condition, Fault
from backend.library.examine import examine
from backend.library.repair import repair, undo


def look(folder: Path) -> Condition | None:
    """Look into a folder; an exception that nobody foresaw is a fault of the folder. None: it is gone."""
    try:
        return examine(folder)
    except PermissionError:
        return Condition(faults=(Fault.of(UsageError("library.unreadable", name=folder.name, folder=str(folder))),))
    except OSError:
        return None
    except Exception as problem:  # noqa: BLE001 - the last boundary: one odd folder must not hide the others
        return Condition(faults=(Fault.of(unexpected(problem)),))


def answers(wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answers to one request."""
    folders = [Path(folder) for folder in wanted["folders"]]
    if wanted["do"] == "examine":
        for folder in folders:
            found = look(folder)
            yield {"folder": str(folder), "found": found.to_json() if found else None}
        return
    try:
        if wanted["do"] == "repair":
            notes = repair(folders[0], template=wanted.get("template"))
            yield {"notes": [note.to_json() for note in notes]}
        else:
            undo(folders[0])
            yield {"notes": []}
    except CriaError as problem:
        yield {"error": problem.to_json()}
    except Exception as problem:  # noqa: BLE001 - the last boundary: whoever waits must read a sentence
        yield {"error": unexpected(problem).to_json()}


def main() -> None:
    """Answer the request on stdin."""
    for answer in answers(json.load(sys.stdin)):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
