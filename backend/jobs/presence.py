"""Which server looks after a data folder, so that a second one can say so. Two do each other no harm: every set-up is
held by its own lock. Knows nothing about jobs or pages.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.locks import try_lock

_FILE = "server.lock"


@dataclass(frozen=True)
class Presence:
    """A server: its process, its machine, since when (Unix time), and where its page is."""

    pid: int
    host: str
    since: float
    url: str


class Claim:
    """What ``claim`` returns: this server's lock, or who holds it. Close it when the server ends."""

    def __init__(self, handle: int | None, other: Presence | None) -> None:
        self._handle, self.other = handle, other

    def close(self) -> None:
        """Let the next one have it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def claim(data_dir: Path, url: str) -> Claim:
    """Claim a data folder for this process, or find out who has it. The kernel lets go when its holder dies."""
    path = data_dir / _FILE
    handle = try_lock(path)
    if handle is None:
        return Claim(None, _read(path))
    mine = Presence(os.getpid(), socket.gethostname(), time.time(), url)
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(asdict(mine)).encode(), 0)
    return Claim(handle, None)


def _read(path: Path) -> Presence:
    """Return who wrote itself into the file; a holder that has not written yet is still a holder."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Presence(int(data["pid"]), str(data["host"])[:100], float(data["since"]), str(data["url"])[:200])
    except (OSError, ValueError, KeyError, TypeError):
        return Presence(0, "?", 0.0, "?")
