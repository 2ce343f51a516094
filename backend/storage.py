"""The disk under a folder: how much room there is, what a folder takes, and small files that survive a crash.

Knows nothing about what is written, and puts no refusal into words: whoever writes knows what it means.
"""

import contextlib
import os
import shutil
from pathlib import Path

PART = ".part"  # the ending of a file that is not whole yet


def free_bytes(folder: Path) -> int:
    """Return the bytes that may still be written there, whether or not the folder exists yet."""
    place = next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
    return shutil.disk_usage(place).free


def disk_bytes(folder: Path) -> int:
    """Return the bytes that the files below a folder take on the disk; an unfinished one may have holes in it.

    What vanishes meanwhile counts nothing.
    """
    total = 0
    for place, _, names in os.walk(folder):  # it shrugs at folders that are gone
        for name in names:
            with contextlib.suppress(OSError):
                found = (Path(place) / name).lstat()
                total += min(found.st_size, getattr(found, "st_blocks", 1 << 60) * 512)
    return total


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if os.name == "posix":  # Windows has no such thing
        sync_file(folder)


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file so that a crash leaves the old one or the new one, never a part."""
    part = path.with_name(path.name + PART)
    if part.is_symlink():  # a folder that somebody else made may have one, and writing follows it
        part.unlink()
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)
