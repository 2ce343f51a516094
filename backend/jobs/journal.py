"""The journal: the one file that says what a job has done. Append-only JSON lines; a torn last line is dropped.

    {"e": "start"}                                       a worker is being started (again)
    {"e": "run", "pid": 123, "t": 1690000000.0}          it began
    {"e": "queued"}                                      it waits for another heavy job
    {"e": "step", "id": "merge", "m": 1.2}               a step began; m is seconds since the worker began
    {"e": "progress", "id": "merge", "m": 1.4, "done": 5, "total": 9, "note": {...},
     "files": [["model-1.safetensors", 5, 9]]}       files are those on their way, when there are several
    {"e": "log", "message": {...}}
    {"e": "sample", "question": ..., "answer": ..., "stopped": true}
    {"e": "step_done", "id": "merge", "m": 3.0, "memory": 210000000}
    {"e": "done" | "cancelled"} or {"e": "failed", "error": {...}}

Only what must survive a power cut is fsynced; a lost progress line costs nothing. A little room is set aside while a
journal is written, so that even on a full disk it can say how the job ended. Knows nothing about what steps do.
"""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

_ENDINGS = {"done", "failed", "cancelled"}
_DURABLE = {"start", "run", "step_done", "sample", *_ENDINGS}
_ROOM = 32_768  # bytes; more than an ending and its error take
_FULL = (errno.ENOSPC, errno.EDQUOT)


class JournalWriter:
    """Appends lines to one job's journal. Meant for one writer at a time: the worker that holds the job's lock."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # A line torn by a crash must not swallow the next one.
        self._torn = bool(path.stat().st_size) and path.read_bytes()[-1:] != b"\n"
        self._room = path.with_name(f"{path.name}.room")
        with contextlib.suppress(OSError):  # the disk is full already
            self._room.write_bytes(bytes(_ROOM))

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; returns after it is on disk when it must not be lost.

        Raises:
            OSError: it is one that must not be lost, and the disk refuses.
        """
        line = json.dumps({"e": event, **fields}, separators=(",", ":"))  # ASCII: a value may hold half a character
        try:
            self._append(line)
        except OSError as problem:
            if event in _ENDINGS and problem.errno in _FULL:
                self._room.unlink(missing_ok=True)
                self._append(line)
            elif event in _DURABLE or problem.errno not in _FULL:
                raise
        if event in _DURABLE:
            os.fsync(self._file)

    def _append(self, line: str) -> None:
        data = ("\n" * self._torn + line + "\n").encode()
        self._torn = True
        while data:
            data = data[os.write(self._file, data) :]
        self._torn = False

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
        with contextlib.suppress(OSError):
            self._room.unlink()


class JournalReader:
    """Reads a growing journal a bit at a time, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_lines(self) -> list[dict[str, Any]]:
        """Return the events appended since the last call; a damaged line is skipped, a missing file is empty."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [event for line in whole.split(b"\n") if (event := _parse(line)) is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, UnicodeDecodeError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("e"), str) else None
