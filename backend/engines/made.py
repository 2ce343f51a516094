"""Files that engines make from a model's weights, kept in folders inside the model's, so that they move and go with it.

A file's name ends with a fingerprint of what it was made from: a model that has changed gets files of other names, and
the old ones go. One process at a time writes or removes. Knows nothing about what is in such a file.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from backend.engines.folder import small_json
from backend.errors import MachineError, WeightsError
from backend.library import CONVERTED, QUANTISED, RECORD
from backend.locks import try_lock
from backend.storage import PART
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import inside

_OURS = re.compile(
    rf"[a-z0-9_]+(?:-[a-z0-9]+)?-(?P<key>[0-9a-f]{{16}})\.(gguf|safetensors)(?P<part>{re.escape(PART)})?"
)


def fingerprint(checkpoint: Checkpoint, version: int, *more: object, small: Sequence[str] = ()) -> str:
    """Return 16 digits that stand for what a file is made from: weights by size and time, and by their sha256 where a
    set-up noted it; ``small`` files beside them by content; ``version`` of what is written, and ``more`` as JSON."""
    digest = hashlib.sha256(json.dumps([version, checkpoint.made_of, *more]).encode())
    hashes = small_json(checkpoint.folder / RECORD).get("files")
    if isinstance(hashes, dict):
        names = (file.path.name for file in checkpoint.files)
        digest.update(json.dumps({name: hashes.get(name) for name in names}, default=str).encode())
    for name in small:
        path = checkpoint.folder / name
        if path.is_file():
            digest.update(f"{name}:".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def alone(place: Path, *, patience_s: float = 0.0) -> Iterator[bool]:
    """Tell whether nobody else writes or removes in a folder; as long as this lasts, nobody else begins to."""
    lock = try_lock(place / ".lock", patience_s=patience_s)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def clear(place: Path, key: str | None) -> None:
    """Remove half-made files, and those of another fingerprint than ``key`` if there is one; nobody else's. For whoever
    is ``alone`` there."""
    for path in _spent(place, key):
        path.unlink(missing_ok=True)


def sweep(place: Path, key: str | None = None) -> None:
    """Do the same where it can be done at once: nobody is at it, the folder may be written and is no link elsewhere."""
    with contextlib.suppress(OSError, MachineError, WeightsError):
        inside(place.parent, place.name)
        if any(_spent(place, key)):
            with alone(place) as mine:
                if mine:
                    clear(place, key)


def sweep_all(models: Path) -> None:
    """Remove what was half-made when a process was killed, in the folders of all models. A few listings."""
    with contextlib.suppress(OSError):
        for name in (CONVERTED, QUANTISED):
            for place in models.glob(f"*/{name}"):
                sweep(place)


def _spent(place: Path, key: str | None) -> Iterator[Path]:
    for path in place.iterdir():
        made = _OURS.fullmatch(path.name)
        if made and (made["part"] or key not in (None, made["key"])):
            yield path
