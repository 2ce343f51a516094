"""One process at a time fetches into a folder; the others wait and know for whom.

The lock is ``flock`` on a file beside the folder, which the kernel lets go when its holder dies. Some network disks
keep such locks to one machine, so the holder also writes who it is into the file and touches it while it works; a
holder on another machine that still touches it is believed. Knows nothing about what is being done.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from backend.errors import Cancelled
from backend.locks import try_lock

_POLL_S = 0.1
_BEAT_S = 5.0
_SILENT_S = 20.0  # a holder on another machine that has not touched its file for so long is gone


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: a process on a machine."""

    pid: int
    host: str


class Lock:
    """A lock that is held until ``release``. ``beat`` must be called now and then."""

    def __init__(self, path: Path, file: int) -> None:
        self._path, self._file, self._beaten = path, file, time.monotonic()

    def beat(self) -> None:
        """Show that the holder is alive."""
        if time.monotonic() - self._beaten > _BEAT_S:
            self._beaten = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def release(self) -> None:
        """Let go; a second time does nothing."""
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1


def acquire(path: Path, *, cancelled: Callable[[], bool]) -> Generator[Holder, None, Lock]:
    """Wait for a lock, yielding who holds it, about ten times a second; return it as the generator's value.

    Raises:
        Cancelled: ``cancelled`` said so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    seen = _Seen()
    while (found := _try(path, seen)) is None:
        if cancelled():
            raise Cancelled("job.cancelled")
        yield holder(path)
        time.sleep(_POLL_S)
    return found


def holder(path: Path) -> Holder:
    """Return who wrote itself into a lock file last."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Holder(int(data["pid"]), str(data["host"])[:100])
    except (OSError, ValueError, KeyError, TypeError):
        return Holder(0, "?")


@dataclass
class _Seen:
    """When a foreign holder's file was last seen to change, by our own clock."""

    touched: int = -1
    at: float = 0.0


def _try(path: Path, seen: _Seen) -> Lock | None:
    if (file := try_lock(path)) is None:
        return None
    now, touched, host = time.monotonic(), os.fstat(file).st_mtime_ns, socket.gethostname()
    if os.fstat(file).st_size and holder(path).host != host:
        if touched != seen.touched:
            seen.touched, seen.at = touched, now
        if now - seen.at < _SILENT_S:
            os.close(file)
            return None
    if not path.exists() or path.stat().st_ino != os.fstat(file).st_ino:  # deleted while we waited for it
        os.close(file)
        return None
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps({"pid": os.getpid(), "host": host}).encode(), 0)
    return Lock(path, file)
