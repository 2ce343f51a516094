"""Where downloads live, and what is known about each: complete or not, how large, whose.

    downloads/KIND/ORG--REPO/REVISION/           files under their final names, each proven before it got its name
                             REVISION/.manifest.json  written last: every file is there
                             REVISION/.parts/     unfinished files, their journals, and `ready`: names that are proven
                             REVISION.lock        who fetches into it

Knows nothing about networks.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import SourceError
from backend.locks import is_locked
from backend.sources.disk import writing
from backend.sources.listing import Listing, RemoteFile
from backend.sources.progress_journal import read_journal
from backend.storage import PART, disk_bytes, replace_file

MANIFEST, PARTS, _READY = ".manifest.json", ".parts", "ready"
_KIND = re.compile(r"hf|modelscope|web")
_REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Download:
    """One folder of the store: ``bytes`` are on the disk, ``in_use`` while a process fetches into it."""

    folder: Path
    kind: str
    repository: str
    revision: str
    bytes: int
    is_complete: bool
    in_use: bool


def home(downloads: Path, listing: Listing) -> Path:
    """Return the folder that a listing is fetched into."""
    return downloads / listing.kind / listing.repository.replace("/", "--") / listing.revision


def lock_path(folder: Path) -> Path:
    """Return the lock of a folder, which lies beside it."""
    return folder.with_name(f"{folder.name}.lock")


def is_complete(folder: Path, listing: Listing) -> bool:
    """Tell whether every file of a listing is there, proven, and not touched since."""
    known = _rows(folder)
    return all(_stands(folder, file, known.get(file.name)) for file in listing.files)


def bytes_there(folder: Path, listing: Listing) -> int:
    """Return how many bytes of a listing need not be fetched: proven files, and what journals say is written."""
    ready, total = ready_files(folder), 0
    for file in listing.files:
        if _stands(folder, file, ready.get(file.name)):
            total += file.size
        else:
            total += read_journal(folder / PARTS / f"{file.name}.journal", file.size, file.identity).have.total
    return total


def ready_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return name -> row of the files that are proven, whether or not all of them are."""
    found = _rows(folder)
    with contextlib.suppress(OSError):
        for line in (folder / PARTS / _READY).read_text(encoding="utf-8").split("\n")[:-1]:
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                found[str(row["name"])] = row
    return found


def is_ready(folder: Path, file: RemoteFile, known: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether a file is one of the proven ones and has not been touched since."""
    return _stands(folder, file, known.get(file.name))


def note_ready(folder: Path, file: RemoteFile) -> None:
    """Note that a file has its final name and is what was listed.

    Raises:
        MachineError: the disk is full or cannot be written.
    """
    line = json.dumps(_row(folder, file)) + "\n"
    with writing(folder), (folder / PARTS / _READY).open("a", encoding="utf-8") as out:
        out.write(line)


def finish(folder: Path, listing: Listing) -> None:
    """Write the manifest: from here on the download is complete.

    Raises:
        MachineError: the disk is full or cannot be written.
    """
    rows = [_row(folder, file) for file in listing.files]
    about = {"kind": listing.kind, "repository": listing.repository, "revision": listing.revision}
    manifest = {**about, "endpoint": listing.endpoint, "finished": round(time.time()), "files": rows}
    with writing(folder):
        replace_file(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    tidy(folder)


def tidy(folder: Path) -> None:
    """Remove from a complete download what was only needed until it was."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def list_downloads(downloads: Path) -> tuple[Download, ...]:
    """Return everything in the store, the unfinished and the abandoned too."""
    found = []
    for folder in sorted(downloads.glob("*/*/*")):
        kind, repository = folder.parent.parent.name, folder.parent.name
        if folder.is_dir() and not folder.is_symlink() and _KIND.fullmatch(kind) and _REVISION.fullmatch(folder.name):
            done, busy = _is_whole(folder), is_locked(lock_path(folder))
            name = repository.replace("--", "/", 1)
            found.append(Download(folder, kind, name, folder.name, disk_bytes(folder), done, busy))
    return tuple(found)


def stored_bytes(downloads: Path) -> dict[tuple[str, str], int]:
    """Return (kind, repository) -> bytes on the disk, of the version of which there are the most."""
    found = dict[tuple[str, str], int]()
    for one in list_downloads(downloads):
        key = (one.kind, one.repository)
        found[key] = max(one.bytes, found.get(key, 0))
    return found


def delete(downloads: Path, folder: Path) -> int:
    """Remove one download, as ``list_downloads`` names it; return the bytes that were freed.

    Raises:
        SourceError: it is not in the store, or a process is fetching into it.
    """
    found = next((download for download in list_downloads(downloads) if download.folder == folder), None)
    if found is None:
        raise SourceError("download.not_stored", folder=str(folder)[:200])
    if found.in_use:
        raise SourceError("download.in_use", repository=found.repository)
    with writing(folder):
        # The manifest goes first: a folder that loses its files is not complete any more.
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)
        _forget(folder)
    return found.bytes


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files of a download, finished or not; with the last one of all, the download itself.

    Raises:
        MachineError: the disk refuses.
    """
    with writing(folder):
        for name in names:
            for path in (folder / name, *(folder / PARTS / f"{name}{ending}" for ending in (PART, ".journal"))):
                path.unlink(missing_ok=True)
        if folder.is_dir() and not any(path for path in folder.iterdir() if path.name not in (MANIFEST, PARTS)):
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)
        if not folder.exists():  # by a run that died, perhaps
            _forget(folder)


def _forget(folder: Path) -> None:
    """Remove the lock of a folder that is gone, and the folders around it if they are empty."""
    lock_path(folder).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the next one may still have others in it
        folder.parent.rmdir()
        folder.parent.parent.rmdir()


def sweep(folder: Path, listing: Listing) -> None:
    """Remove what a killed run may have left that nothing will use: parts of other files, and temporary names."""
    ready = ready_files(folder)
    unfinished = {file.name for file in listing.files if not is_ready(folder, file, ready)}
    kept = {_READY} | {f"{name}{ending}" for name in unfinished for ending in (PART, ".journal")}
    for path in [*(folder / PARTS).iterdir(), folder / (MANIFEST + PART)]:
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _row(folder: Path, file: RemoteFile) -> dict[str, Any]:
    now = (folder / file.name).stat()
    return {"name": file.name, "size": now.st_size, "changed": now.st_mtime_ns, "identity": file.identity}


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {str(row["name"]): dict(row) for row in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_whole(folder: Path) -> bool:
    """Tell whether a download was complete and still is: a set-up may have removed what it needed no more."""
    known = _rows(folder)
    return bool(known) and all((folder / name).is_file() for name in known)


def _stands(folder: Path, file: RemoteFile, row: Mapping[str, Any] | None) -> bool:
    if row is None or row.get("identity") != file.identity or row.get("size") != file.size:
        return False
    try:
        now = os.lstat(folder / file.name)
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (row["size"], row.get("changed"))
