"""Changing what stands on the shelf: another name for a folder, or its end. Knows nothing about what uses a folder now.

Two pages may press at once: whoever changes the shelf holds its lock meanwhile.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from backend.errors import JobError, MachineError, UsageError
from backend.library.models import CONVERTED, QUANTISED
from backend.locks import try_lock
from backend.recipes import check_name
from backend.storage import disk_bytes, sync_folder

_LOCK = ".shelf.lock"
_PATIENCE_S = 10.0
_DOOMED = ".deleted-"


@contextlib.contextmanager
def changing(models_dir: Path) -> Iterator[None]:
    """Hold the shelf's lock.

    Raises:
        JobError: somebody else has been changing it for ten seconds.
        MachineError: the folder cannot be written.
    """
    try:
        handle = try_lock(models_dir / _LOCK, patience_s=_PATIENCE_S)
    except OSError as problem:
        what = problem.strerror or str(problem)
        raise MachineError("weights.cannot_write", folder=str(models_dir), what=what) from problem
    if handle is None:
        raise JobError("models.shelf_busy")
    try:
        yield
    finally:
        os.close(handle)


def rename_model(folder: Path, name: str) -> Path:
    """Give a folder on the shelf another name; return where it is then.

    Raises:
        UsageError: a name that cannot be a model's, or is taken.
        MachineError: the disk refused.
    """
    target = folder.with_name(check_name(name))
    with changing(folder.parent):
        if target.exists() or target.is_symlink():
            raise UsageError("models.name_taken", name=name)
        try:
            folder.rename(target)
            sync_folder(folder.parent)
        except OSError as problem:
            what = problem.strerror or str(problem)
            raise MachineError("models.cannot_rename", name=folder.name, what=what) from problem
    return target


def delete_model(folder: Path, *, in_use: bool) -> None:
    """Delete a model folder for good; of a link, only the link.

    Raises:
        UsageError: it is loaded.
        MachineError: the disk refused.
    """
    if in_use:
        raise UsageError("library.in_use", name=folder.name)
    try:
        # Renamed first: whatever interrupts the deletion, nothing half-deleted is left on the shelf.
        with changing(folder.parent):
            folder.rename(folder.with_name(f"{_DOOMED}{secrets.token_hex(8)}"))
        for doomed in folder.parent.glob(f"{_DOOMED}*"):  # also those that a kill left behind
            if doomed.is_symlink():
                doomed.unlink()
            else:
                shutil.rmtree(doomed)
    except OSError as problem:
        what = problem.strerror or str(problem)
        raise MachineError("library.cannot_delete", name=folder.name, what=what) from problem


def drop_converted(folder: Path) -> int:
    """Delete what engines made of a model's weights and keep in its folder; return the bytes. They make it again.

    A link in its place is nobody's work of ours: it stays.

    Raises:
        MachineError: the disk refused.
    """
    freed = 0
    for place in (folder / CONVERTED, folder / QUANTISED):
        if place.is_dir() and not place.is_symlink():
            freed += disk_bytes(place)
            try:
                shutil.rmtree(place)
            except OSError as problem:
                what = problem.strerror or str(problem)
                raise MachineError("library.cannot_delete", name=folder.name, what=what) from problem
    return freed
