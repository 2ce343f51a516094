"""Files that are on this machine already: under their final name, or in the Hugging Face cache. Proven before use.

The cache is only read; a file in it becomes ours by a second name for the same bytes, or by a copy on another disk.
Knows nothing about networks.
"""

import contextlib
import hashlib
import os
from collections.abc import Generator
from pathlib import Path

from backend.sources.disk import writing
from backend.sources.listing import Listing, RemoteFile
from backend.storage import sync_folder

_BLOCK = 4 << 20


def cached_blob(cache: Path, listing: Listing, file: RemoteFile) -> Path | None:
    """Return the cache's file with these bytes, if it has one of that name and length.

    The layout is huggingface_hub's: models--ORG--REPO/blobs/ETAG, the ETag being sha256 for LFS files, git's id else.
    """
    name = file.sha256 or file.git_sha1
    if listing.kind != "hf" or name is None:
        return None
    path = cache / f"models--{listing.repository.replace('/', '--')}" / "blobs" / name
    try:
        return path if path.is_file() and not path.is_symlink() and path.stat().st_size == file.size else None
    except OSError:
        return None


def prove(path: Path, file: RemoteFile) -> Generator[int, None, bool]:
    """Read a file through, yielding bytes read; return as the generator's value whether it is what was listed.

    A file without a published sum cannot be proven.
    """
    digest = _digest(file)
    if file.sha256 is None and file.git_sha1 is None:
        return False
    try:
        with path.open("rb", buffering=0) as source:
            while block := source.read(_BLOCK):
                digest.update(block)
                yield len(block)
    except OSError:
        return False
    return file.size == path.stat().st_size and digest.hexdigest() == (file.sha256 or file.git_sha1)


def adopt(blob: Path, folder: Path, parts: Path, file: RemoteFile) -> Generator[int, None, bool]:
    """Give a file of the cache its name in ``folder`` if it is what was listed; yields bytes, returns whether it was.

    Raises:
        MachineError: the disk is full or cannot be written.
    """
    waiting = parts / f"{file.name}.adopted"
    waiting.unlink(missing_ok=True)
    try:
        waiting.hardlink_to(blob)
        right = yield from prove(waiting, file)
    except OSError:  # another disk, or one without such names
        right = yield from _copy(blob, waiting, file)
    if not right:
        waiting.unlink(missing_ok=True)
        return False
    with writing(folder):
        waiting.rename(folder / file.name)
        sync_folder(folder)
    return True


def _copy(blob: Path, target: Path, file: RemoteFile) -> Generator[int, None, bool]:
    digest = _digest(file)
    with contextlib.ExitStack() as opened, writing(target.parent):
        try:
            source = opened.enter_context(blob.open("rb", buffering=0))
        except OSError:
            return False
        out = opened.enter_context(target.open("wb", buffering=0))
        while block := source.read(_BLOCK):
            view = memoryview(block)
            while view:
                view = view[out.write(view) :]
            digest.update(block)
            yield len(block)
        os.fsync(out.fileno())
    return digest.hexdigest() == (file.sha256 or file.git_sha1)


def _digest(file: RemoteFile) -> "hashlib._Hash":
    if file.sha256 is None and file.git_sha1 is not None:
        return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    return hashlib.sha256()
