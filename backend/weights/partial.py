"""The folder that is not finished yet: a journal of what is complete, and the one rename that publishes it. Knows
nothing about tensors.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import MachineError, WeightsError
from backend.storage import PART, free_bytes, replace_file, sync_file, sync_folder
from backend.weights.disk import read_json

JOURNAL = ".cria-writing.json"
_RESERVE = 64_000_000  # bytes kept free: config, tokenizer, file system overhead
_CHUNK = 8_000_000


@contextmanager
def writing(folder: Path, needed: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn the operating system's refusals to write into errors that a person can act on.

    ``needed`` is asked how many bytes were still to be written when the disk was full.

    Raises:
        MachineError: the disk is full, read-only, or the folder may not be written.
    """
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            free = free_bytes(folder)
            if needed is None:  # a few small files
                raise MachineError("disk.full", folder=str(folder), free=free) from problem
            raise MachineError("weights.disk_full", folder=str(folder), needed=needed(), free=free) from problem
        raise MachineError(
            "weights.cannot_write", folder=str(folder), what=problem.strerror or str(problem)
        ) from problem


def check_room(folder: Path, needed: int) -> None:
    """Make sure that so many bytes fit before any is written.

    Raises:
        MachineError: they do not.
    """
    free = free_bytes(folder)
    if free < needed + min(_RESERVE, needed):
        raise MachineError("weights.disk_full", folder=str(folder), needed=needed, free=free)


def reserve(descriptor: int, size: int) -> None:
    """Give an open file its final size, so that a full disk is known at once; not every file system can."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as problem:
        if problem.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass
class Journal:
    """Which files of a folder are complete, with their sha256, and for which work."""

    folder: Path
    work: str
    done: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path) -> "Journal":
        """Return the journal of a folder; an absent or damaged one lists nothing."""
        try:
            data = read_json(folder / JOURNAL)
        except WeightsError:
            return Journal(folder, "")
        done = data.get("done")
        files = done.items() if isinstance(done, dict) else ()
        return Journal(folder, str(data.get("work")), {str(name): str(sha256) for name, sha256 in files})

    @staticmethod
    def open(folder: Path, work: str) -> "Journal":
        """Return the journal for this work: the one that is there, or an empty one after clearing other work away."""
        found = Journal.read(folder)
        if found.work == work:
            return found
        for name in found.done:
            (folder / Path(name).name).unlink(missing_ok=True)
        return Journal(folder, work)

    def add(self, name: str, sha256: str) -> None:
        """Note that a file is complete and durable."""
        self.done[name] = sha256
        self._save()

    def forget(self, name: str) -> None:
        """A file that is not what was noted is written again."""
        del self.done[name]
        self._save()

    def _save(self) -> None:
        replace_file(self.folder / JOURNAL, json.dumps({"work": self.work, "done": self.done}, indent=1).encode())


def publish(partial: Path, final: Path) -> None:
    """Make a finished folder durable and give it its name in one step.

    Raises:
        MachineError: something has that name already, or the file system refuses.
    """
    with writing(final):
        if final.exists() or final.is_symlink():
            raise MachineError("weights.target_exists", folder=str(final))
        (partial / JOURNAL).unlink(missing_ok=True)
        for path in sorted(partial.rglob("*")):
            if path.suffix == PART:
                path.unlink()
            elif path.is_dir():
                sync_folder(path)
            else:
                sync_file(path)
        sync_folder(partial)
        partial.rename(final)
        sync_folder(final.parent)
