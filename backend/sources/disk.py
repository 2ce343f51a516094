"""The disk that downloads go to: room, durability, and its refusals in words. Knows nothing about networks."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import MachineError

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
            raise MachineError(
                "download.disk_full", folder=str(folder), need=None, free=free_bytes(folder)
            ) from problem
        what = problem.strerror or str(problem)
        raise MachineError("download.cannot_write", folder=str(folder), what=what) from problem


def check_room(folder: Path, need: int) -> None:
    """Make sure that ``need`` bytes fit, and a little stays free.

    Raises:
        MachineError: they do not.
    """
    need, free = need + min(_RESERVE, need // 10), free_bytes(folder)
    if free < need:
        raise MachineError("download.disk_full", folder=str(folder), need=need, free=free)


def free_bytes(folder: Path) -> int:
    """Return the bytes that may still be written there, whether or not the folder exists yet."""
    place = next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
    return shutil.disk_usage(place).free


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if os.name != "posix":  # Windows has no such thing
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file so that a crash leaves the old one or the new one, never a part."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)
