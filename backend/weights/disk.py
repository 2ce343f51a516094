"""Reading bytes of files nobody vouches for: what they are, parts of them, strict JSON. Knows nothing about tensors.

Files are read by position, never mapped: resident memory stays at what was asked for, and a file that shrinks while it
is read is an error message and not a dead process (SIGBUS).
"""

import json
import os
import re
import stat
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backend.errors import WeightsError

JSON_LIMIT = 4_000_000  # bytes; the largest real index (405B) is under 0.2 MB
_BRACKET_LIMIT = 1_000_000  # lists and objects in one JSON text; a Llama-3 tokenizer.json has 280,000
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_POINTER_SIZE = re.compile(rb"^size (\d{1,18})$", re.MULTILINE)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def label(folder: Path) -> str:
    """Return what to call a folder in a sentence: its name, or the repository's where it is named after a commit."""
    if not _COMMIT.fullmatch(folder.name):
        return folder.name
    repository = folder.parent.parent if folder.parent.name == "snapshots" else folder.parent
    return repository.name.removeprefix("models--").replace("--", "/")


class Arrivals(Protocol):
    """Tells where the bytes of files are that are still on their way. Asked from several threads."""

    def locate(self, path: Path, start: int, stop: int) -> Path:
        """Return the file to read these bytes from, once they are there; ``path`` itself if it is not awaited."""

    def is_there(self, path: Path) -> bool:
        """Tell whether all of a file is there."""


# A reader knows only a path, and a dozen functions lie between it and who knows about downloads. A context goes with
# the thread that set it and with the threads that it starts work on (``made_ahead``), and nobody else sees it.
_ARRIVALS: ContextVar[Arrivals | None] = ContextVar("arrivals", default=None)


def await_arrivals(arrivals: Arrivals | None) -> None:
    """Let every read of this thread, and of those that work for it, ask ``arrivals`` first; None ends that."""
    _ARRIVALS.set(arrivals)


def has_arrived(path: Path) -> bool:
    """Tell whether all of a file is there to be read."""
    arrivals = _ARRIVALS.get()
    return arrivals is None or arrivals.is_there(path)


def _located(path: Path, start: int, stop: int) -> Path:
    arrivals = _ARRIVALS.get()
    return path if arrivals is None else arrivals.locate(path, start, stop)


@dataclass(frozen=True)
class SourceFile:
    """A file that weights come from, with its size in bytes."""

    path: Path
    bytes: int


def source_file(path: Path) -> SourceFile:
    """Return a file with its size after making sure that it holds weights and not something else under that name.

    Raises:
        WeightsError: missing, not a file, not readable, empty, a git-lfs pointer, a web page, or an error message of a
            server.
    """
    size = _size(path)
    if size == 0:
        raise WeightsError("weights.file_empty", file=path.name)
    start = read_start(path, 400)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        found = _POINTER_SIZE.search(start)
        raise WeightsError(
            "weights.file_is_pointer", file=path.name, bytes=size, real=int(found.group(1)) if found else None
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<error")):
        raise WeightsError("weights.file_is_page", file=path.name)
    if text.startswith(
        (b'{"error', b"entry not found", b"repository not found", b"access to model", b"invalid username")
    ):
        raise WeightsError("weights.file_is_reply", file=path.name, what=start[:120].decode("utf-8", "replace"))
    return SourceFile(path, size)


def is_there(path: Path) -> bool:
    """Tell whether there is a file of that name.

    Raises:
        WeightsError: there is something else of that name: a folder, a pipe, a link to nowhere.
    """
    try:
        if path.is_file():
            return True
        if not os.path.lexists(path):
            return False
    except OSError as problem:
        raise WeightsError("weights.cannot_read", file=path.name[:120], what=_reason(problem)) from problem
    return _size(path) >= 0


def _size(path: Path) -> int:
    """Return the bytes of a plain file. Anything else is never opened: opening a pipe waits for ever."""
    try:
        found = path.stat()
    except FileNotFoundError as problem:
        raise WeightsError("weights.file_missing", file=path.name, folder=str(path.parent)) from problem
    except (OSError, ValueError) as problem:
        raise WeightsError("weights.cannot_read", file=path.name, what=_reason(problem)) from problem
    if not stat.S_ISREG(found.st_mode):
        key = "files.is_folder" if stat.S_ISDIR(found.st_mode) else "files.is_special"
        raise WeightsError(key, file=path.name, folder=str(path.parent))
    return found.st_size


def _reason(problem: Exception) -> str:
    return (isinstance(problem, OSError) and problem.strerror) or str(problem)[:200]


def read_start(path: Path, count: int) -> bytes:
    """Return the first bytes of a file: ``count``, or fewer where it is shorter.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with _located(path, 0, count).open("rb") as file:
            return file.read(count)
    except OSError as problem:
        raise WeightsError("weights.cannot_read", file=path.name, what=_reason(problem)) from problem


def read_at(path: Path, offset: int, count: int) -> NDArray[np.uint8]:
    """Return ``count`` bytes from ``offset`` on.

    Raises:
        WeightsError: the file ends before that, or cannot be read.
    """
    data = np.empty(count, np.uint8)
    view, done = data.data, 0
    try:
        with _located(path, offset, offset + count).open("rb", buffering=0) as file:
            file.seek(offset)
            while done < count and (got := file.readinto(view[done:])):
                done += got
    except OSError as problem:
        raise WeightsError("weights.cannot_read", file=path.name, what=problem.strerror or str(problem)) from problem
    if done < count:
        raise WeightsError("weights.truncated", file=path.name, missing=count - done)
    return data


def read_json(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        WeightsError: not a file, too large, not JSON, not an object, a key twice, nested too deeply, half
            characters.
    """
    size = source_file(path).bytes
    if size > limit:
        raise WeightsError("weights.json_too_large", file=path.name, bytes=size, limit=limit)
    return parse_json(read_start(path, size), path.name)


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Return the object in some JSON text; ``name`` is the file to blame. Raises as ``read_json`` does."""
    # Two bytes of text, [], take 64 in memory.
    if data.count(b"[") + data.count(b"{") > _BRACKET_LIMIT:
        raise WeightsError("files.json_crowded", file=name, limit=_BRACKET_LIMIT)
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
        if b"\\u" in data:  # an escape can be half a character, which nothing can be called: neither file nor message
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as problem:
        raise WeightsError("files.json_syntax", file=name, line=problem.lineno, column=problem.colno) from problem
    except (ValueError, RecursionError) as problem:
        raise WeightsError("weights.json_bad", file=name) from problem
    if not isinstance(value, dict):
        raise WeightsError("weights.json_bad", file=name)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a dictionary; json's own takes the last of two equal keys, and another reader may take the first."""
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"key {key[:80]!r} twice")
        table[key] = value
    return table


def plain_name(name: str, suffixes: tuple[str, ...], where: str) -> str:
    """Return a file name from an index or a list, if it names a file of that kind directly inside the folder.

    Raises:
        WeightsError: separators, ``..``, a leading dot, another suffix, or characters no such file has.
    """
    if not _PLAIN.fullmatch(name) or ".." in name or not name.endswith(suffixes):
        raise WeightsError("weights.bad_name", name=name[:120], file=where)
    return name


def inside(folder: Path, name: str) -> Path:
    """Return ``folder / name``; links are followed only as far as the folder's own files and a hub cache's blobs. For
    whatever ends up in a finished folder as it is: weights of strangers must not fetch a person's keys there.

    Raises:
        WeightsError: a link leads somewhere else.
    """
    path = folder / name
    try:
        real, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError) as problem:  # links in a circle, names too long
        raise WeightsError("weights.cannot_read", file=name[:120], what=_reason(problem)) from problem
    # A hub cache keeps snapshots/<revision>/<file> as links to ../../blobs/<hash>, also below original/.
    blobs = [above.parent / "blobs" for above in home.parents[:2] if above.name == "snapshots"]
    if not any(real.is_relative_to(place) for place in (home, *blobs)):
        raise WeightsError("weights.link_outside", file=name, folder=str(folder))
    return path


def integer(table: Mapping[str, Any], key: str, file: str, *, low: int = 1, high: int = 1 << 24) -> int:
    """Return an integer field within its range.

    Raises:
        WeightsError: absent, not a whole number, or outside the range.
    """
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise WeightsError("weights.bad_number", file=file, key=key, value=str(value)[:60], low=low, high=high)
    return value


def number(table: Mapping[str, Any], key: str, file: str, *, low: float, high: float) -> float:
    """Return a numeric field within its range. Raises as ``integer`` does."""
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise WeightsError("weights.bad_number", file=file, key=key, value=str(value)[:60], low=low, high=high)
    return float(value)
