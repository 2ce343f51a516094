"""Puts a ready-made GGUF file from anywhere on this machine on the shelf, as a model folder of its own.

On the same disk the file gets a second name (a hard link): nothing is copied, the first one stays where it is, and
neither goes when the other is deleted. From another disk it is copied. Knows nothing about what loads it.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.errors import JobError, MachineError, UsageError
from backend.events import Progress
from backend.library.changes import changing
from backend.locks import try_lock
from backend.recipes import check_name
from backend.storage import free_bytes, sync_file, sync_folder
from backend.text import Message
from backend.weights.gguf_head import read_head
from backend.weights.gguf_ready import ENDING, PART, files_of

_HALF, _LOCK = ".adopting-", ".adopting.lock"
_BLOCK = 8 << 20
_SPARE = 200_000_000  # bytes of disk that are left alone


@dataclass(frozen=True)
class Adoption:
    """Files to be put on the shelf, under a name: file name -> where it really lies (a hub's cache has links)."""

    files: Mapping[str, Path]
    name: str


def find_gguf(given: str, name: str = "") -> Adoption:
    """Return what a path names: a GGUF file with its other parts, or a folder with one model. ``name`` empty: after it.

    Raises:
        UsageError: there is no such file, or the name cannot be a model's.
        WeightsError: it is no GGUF file, is cut short, lacks a part, or the folder holds several.
    """
    wanted = check_name(name.strip()) if name.strip() else ""
    try:
        path = Path(given).expanduser().resolve()
        is_file = path.is_file()
        home = path.parent if is_file else path
        names = [entry.name for entry in home.iterdir()]
    except (OSError, RuntimeError, ValueError) as problem:
        raise UsageError("ggufready.no_file", path=given[:300]) from problem
    if is_file and path.suffix != ENDING:
        raise UsageError("ggufready.no_file", path=given[:300])
    part = PART.fullmatch(path.name)
    mine = [one for one in names if _belongs(one, path.name, part["stem"] if part else None)] if is_file else names
    files = {one: (home / one).resolve() for one in files_of(mine)}
    for file in files.values():
        read_head(file)
    return Adoption(files, wanted or check_name(_named(next(iter(files)))))


def _belongs(name: str, wanted: str, stem: str | None) -> bool:
    """Tell whether a file is the one that was named, or another part of it."""
    part = PART.fullmatch(name)
    return name == wanted or (stem is not None and part is not None and part["stem"] == stem)


def _named(file: str) -> str:
    """Return a file's name as a model may be called."""
    part = PART.fullmatch(file)
    stem = part["stem"] if part else file.removesuffix(ENDING)
    return re.sub(r"[^a-z0-9._]+", "-", stem.lower()).strip("-.").replace("..", ".")[:60] or "model"


def adopt_gguf(adoption: Adoption, models_dir: Path, *, may_copy: bool = True) -> Iterator[Progress]:
    """Put files on the shelf. Yields bytes copied, where that has to be done.

    Raises:
        UsageError: the name is taken; or the files lie on another disk and may not be copied.
        MachineError: the disk is full or refused.
        JobError: somebody else is at it.
    """
    place = models_dir / f"{_HALF}{secrets.token_hex(8)}"
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        handle = try_lock(models_dir / _LOCK, patience_s=1.0)
        if handle is None:
            raise JobError("models.shelf_busy")
        try:
            _check_free(models_dir / adoption.name)
            for left in models_dir.glob(f"{_HALF}*"):  # of runs that were killed
                shutil.rmtree(left, ignore_errors=True)
            place.mkdir()
            yield from _fill(adoption, place, may_copy=may_copy)
            with changing(models_dir):
                _check_free(models_dir / adoption.name)
                place.rename(models_dir / adoption.name)
                sync_folder(models_dir)
        finally:
            shutil.rmtree(place, ignore_errors=True)
            os.close(handle)
    except OSError as problem:
        what = problem.strerror or str(problem)
        raise MachineError("weights.cannot_write", folder=str(models_dir), what=what) from problem


def _check_free(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise UsageError("models.name_taken", name=target.name)


def _fill(adoption: Adoption, place: Path, *, may_copy: bool) -> Iterator[Progress]:
    left = dict[str, Path]()
    for name, file in adoption.files.items():
        try:
            os.link(file, place / name)
        except OSError:  # another disk, or one that has no second names
            left[name] = file
    total, done = sum(file.stat().st_size for file in left.values()), 0
    if left and not may_copy:
        raise UsageError("ggufready.other_disk", path=str(next(iter(left.values()))), name=adoption.name)
    if left and free_bytes(place) < total + _SPARE:
        raise MachineError("ggufready.no_disk", need=total + _SPARE, free=free_bytes(place))
    note = Message("ggufready.copying")
    for name, file in left.items():
        with file.open("rb", buffering=0) as source, (place / name).open("xb") as target:
            while block := source.read(_BLOCK):
                target.write(block)
                done += len(block)
                yield Progress(done, total, note)
        sync_file(place / name)
    sync_folder(place)
