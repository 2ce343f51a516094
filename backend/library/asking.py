"""Asking the child that opens folders: with a limit on time, and an answer whatever becomes of it.

Knows nothing about what the child does.
"""

import json
import logging
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from backend.errors import CriaError, error_from_json
from backend.library.condition import Condition, Fault
from backend.settings import ROOT
from backend.text import Message

_LOG = logging.getLogger("cria.library")
LOOK_S, REPAIR_S = 60.0, 300.0  # a look takes a tenth of a second; a network disk may sleep
_COMMAND = [sys.executable, "-m", "backend.library.child"]

Take = Callable[[Path, Condition | None], None]


def examine_all(folders: Sequence[Path], take: Take, *, limit_s: float = LOOK_S) -> None:
    """Look into folders one after the other; ``take`` gets what was found in each, None for one that is gone.

    A folder at which the child stands still or dies is said to be unreadable, and the others go on with a new child.
    """
    left = list(folders)
    while left:
        done = _some(left, take, limit_s)
        if done < len(left):
            take(left[done], Condition(faults=(Fault.of(CriaError("models.fault.no_answer")),)))
        left = left[done + 1 :]


def _some(folders: Sequence[Path], take: Take, limit_s: float) -> int:
    """Return how many folders one child answered for."""
    done = 0
    with subprocess.Popen(
        _COMMAND, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as child:
        try:
            if child.stdin is None or child.stdout is None:
                return 0
            child.stdin.write(json.dumps({"do": "examine", "folders": [str(one) for one in folders]}).encode())
            child.stdin.close()
            for line in _lines(child.stdout, limit_s):
                found = json.loads(line)["found"]
                take(folders[done], Condition.from_json(found) if found else None)
                done += 1
        except (OSError, ValueError, KeyError, TypeError) as problem:
            _LOG.warning("looking into %s failed: %s", folders[min(done, len(folders) - 1)].name, problem)
        finally:
            child.kill()
    return done


def _lines(stream: IO[bytes], limit_s: float) -> Iterator[bytes]:
    """Yield the lines of a child's answer until it ends, or until one is late."""
    waiting, deadline = b"", time.monotonic() + limit_s
    while select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
        more = stream.read(1 << 16)
        if not more:
            return
        *whole, waiting = (waiting + more).split(b"\n")
        for line in whole:
            yield line
            deadline = time.monotonic() + limit_s


def ask(do: str, folder: Path, *, template: str | None = None) -> tuple[Message, ...]:
    """Let the child repair a folder, or take a repair back; return what it tells.

    Raises:
        CriaError: it could not be done; the error says why.
    """
    wanted: dict[str, Any] = {"do": do, "folders": [str(folder)], "template": template}
    try:
        answer = subprocess.run(
            _COMMAND, input=json.dumps(wanted), cwd=ROOT, capture_output=True, text=True, timeout=REPAIR_S, check=False
        )
        told = json.loads(answer.stdout)
    except (subprocess.TimeoutExpired, ValueError) as problem:
        _LOG.warning("%s of %s failed: %s", do, folder.name, problem)
        raise CriaError("models.fault.no_answer") from problem
    if "error" in told:
        raise error_from_json(told["error"])
    return tuple(map(Message.from_json, told["notes"]))
