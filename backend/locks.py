"""Locks between processes: who holds a job, a download, the heavy work. Knows nothing about what is being done.

``flock`` locks live as long as the open file, which a child inherits: a worker is locked before it runs its first line,
and the lock is gone the moment the process is, however it ended.
"""

import fcntl
import os
import time
from pathlib import Path

_POLL_S = 0.02


def try_lock(path: Path, *, patience_s: float = 0.0) -> int | None:
    """Return an open, locked file descriptor, or None when another process holds the lock. Close it to let go.

    ``patience_s``: how long to wait for a holder that is on its way out.
    """
    handle, deadline = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(handle)
                return None
            time.sleep(_POLL_S)
        else:
            return handle


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds the lock now; a file that is not there is not locked."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who only look do not see each other
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
