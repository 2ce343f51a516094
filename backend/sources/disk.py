"""What the disk that downloads go to refuses, in words. Knows nothing about networks."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import CriaError, MachineError
from backend.storage import free_bytes

_FULL, _LITTLE = "download.disk_full", "disk.full"  # with the bytes that are needed, and where they are few
_RESERVE = 1 << 30  # bytes left free when much is fetched; a tenth of what is fetched when little is


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into errors that a person can act on.

    Raises:
        MachineError: the disk is full, read-only, damaged, or the folder may not be written.
    """
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MachineError(_LITTLE, folder=str(folder), free=free_bytes(folder)) from problem
        what = problem.strerror or str(problem)
        raise MachineError("download.cannot_write", folder=str(folder), what=what) from problem


def with_need(error: CriaError, need: int) -> CriaError:
    """Return an error with the bytes that were still to come, where it is a full disk that was met while writing."""
    return MachineError(_FULL, **{**error.params, "need": need}) if error.key == _LITTLE else error


def check_room(folder: Path, need: int) -> None:
    """Make sure that ``need`` bytes fit, and a little stays free.

    Raises:
        MachineError: they do not.
    """
    need, free = need + min(_RESERVE, need // 10), free_bytes(folder)
    if free < need:
        raise MachineError(_FULL, folder=str(folder), need=need, free=free)
