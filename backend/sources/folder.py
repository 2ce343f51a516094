"""Sources already on this machine: a folder a person names, an archive file, or one built into Cria.

A folder is used in place, never copied. Before anything is made of it, its files are looked at for what would only fail
later, and those that were published with a sum are compared with it; the rest is read once, when it is used. Knows
nothing about formats.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.errors import Cancelled, SourceError
from backend.events import Log, Progress
from backend.settings import ASSETS
from backend.sources.archive import is_archive, is_other_archive, open_archive, unpacked_folder
from backend.sources.source import BUILTIN, WEIGHT_ENDINGS, Source, SourceFile
from backend.text import Message

_BLOCK = 4 << 20
_REPOSITORY = re.compile(r"(modelscope:)?[\w.-]+/[\w.-]+(@[\w./-]+)?")
_LOOKED_AT = ("config.json", "params.json", "adapter_config.json", "tokenizer.model", "tokenizer.json")
_CHECKLIST, _TOKENIZER_CHECKLIST = "checklist.chk", "tokenizer_checklist.chk"
_CHECKLIST_LIMIT = 100_000  # bytes; Meta's longest has 600
_ROW = re.compile(r"([0-9a-fA-F]{32})\s+\*?([A-Za-z0-9._-]{1,200})\s*")


def builtin_path(spec: str) -> Path | None:
    """Return the path under ``assets/`` that ``builtin:PATH`` means, None for any other spec.

    Raises:
        SourceError: the path leaves ``assets/``.
    """
    if not spec.startswith(BUILTIN):
        return None
    path = (ASSETS / spec.removeprefix(BUILTIN)).resolve()
    if not path.is_relative_to(ASSETS):
        raise SourceError("sources.outside", source=spec)
    return path


def open_source(spec: str, *, unpacked: Path | None = None) -> Source:
    """List what a source holds, without reading it. An archive that is unpacked below ``unpacked`` is a folder.

    Raises:
        SourceError: the folder is missing, unreadable or holds no weights, the archive is damaged or reaches out of its
            folder, or the spec is a kind not known here.
    """
    try:
        path = builtin_path(spec) or Path(spec).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as problem:  # a name too long, a person who is not there, a zero byte
        raise SourceError("sources.no_path", source=spec[:200], what=str(problem)[:200]) from problem
    if is_file:
        return _open_file(spec, path.resolve(), unpacked)
    if not is_folder:
        local = spec.startswith((BUILTIN, ".", "/", "~"))
        remote = spec.startswith(("https://", "http://")) or (not local and _REPOSITORY.fullmatch(spec))
        key = "sources.not_local" if remote else "sources.missing"
        raise SourceError(key, source=spec)
    source = Source(spec, path.resolve(), _list_folder(spec, path))
    if not source.weights and (inner := _size_folder(spec, path)) is not None:
        source = Source(spec, inner.resolve(), _list_folder(spec, inner))
    if not source.weights:
        names = ", ".join(file.name for file in source.files[:6])
        has_gguf = any(file.name.endswith(".gguf") for file in source.files)
        key = "ggufready.no_source" if has_gguf else "sources.no_weights"
        raise SourceError(key, source=spec, files=names or "-")
    return source


def _size_folder(spec: str, path: Path) -> Path | None:
    """Return the one folder of Meta's layout inside another: 7B beside its tokenizer, ``original`` in a repository.

    Raises:
        SourceError: there are several, so it is not known which one is meant.
    """
    try:
        found = sorted(entry for entry in path.iterdir() if (entry / "params.json").is_file())
    except OSError as problem:
        raise SourceError("sources.unreadable", source=spec, what=problem.strerror or str(problem)) from problem
    if len(found) > 1:
        raise SourceError("weights.size_folders", folder=spec, sizes=", ".join(entry.name for entry in found[:8]))
    return found[0] if found else None


def _open_file(spec: str, path: Path, unpacked: Path | None) -> Source:
    if not is_archive(path):
        if is_other_archive(path):
            raise SourceError("archive.other_kind", source=spec, ending=path.suffix)
        raise SourceError("sources.is_file", source=spec, folder=str(path.parent))
    if unpacked is not None and (home := unpacked_folder(path, unpacked)).is_dir():
        return Source(spec, home, _list_folder(spec, home))
    return open_archive(path, spec)


def _list_folder(spec: str, path: Path) -> tuple[SourceFile, ...]:
    try:
        return tuple(
            SourceFile(entry.name, entry.stat().st_size)
            for entry in sorted(path.iterdir())
            if entry.is_file() and not entry.name.startswith(".")
        )
    except OSError as problem:
        raise SourceError("sources.unreadable", source=spec, what=problem.strerror or str(problem)) from problem


@dataclass(frozen=True)
class _Published:
    """A file that was published with its md5 sum."""

    path: Path
    size: int
    md5: str
    list: str  # the name of the file that says so


def _published(source: Source) -> tuple[_Published, ...]:
    """Return the files that Meta's lists name: the weights' beside them, the tokenizer's with it in the parent folder.

    Raises:
        SourceError: a weights file that is listed is not there.
    """
    if source.packed:
        return ()
    found = []
    for name, md5 in _rows(source, source.folder / _CHECKLIST).items():
        if source.has(name):
            path = source.folder / name
            found.append(_Published(path, path.stat().st_size, md5, _CHECKLIST))
        elif name.endswith(WEIGHT_ENDINGS):
            raise SourceError("sources.listed_missing", file=name, source=source.spec, list=_CHECKLIST)
    place = source.folder if source.has("tokenizer.model") else source.folder.parent
    model = place / "tokenizer.model"
    if source.has("params.json") and model.is_file() and model not in [known.path for known in found]:
        listed = _rows(source, place / _TOKENIZER_CHECKLIST)
        if model.name in listed:
            found.append(_Published(model, model.stat().st_size, listed[model.name], _TOKENIZER_CHECKLIST))
    return tuple(found)


def _rows(source: Source, path: Path) -> dict[str, str]:
    """Return name -> md5 of a list with lines of ``md5  name``; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            text = file.read(_CHECKLIST_LIMIT).decode("utf-8", "replace")
    except OSError as problem:
        what = problem.strerror or str(problem)
        raise SourceError("sources.unreadable", source=f"{source.spec}/{path.name}", what=what) from problem
    return {row[2]: row[1].lower() for line in text.splitlines() if (row := _ROW.fullmatch(line))}


def fetch_bytes(source: Source) -> tuple[int, int]:
    """Return how many bytes unpacking and checking a source reads, and how many it writes.

    Raises:
        SourceError: a weights file that its checklist names is not there.
    """
    if source.packed:
        return source.folder.stat().st_size, source.bytes
    return sum(file.size for file in _published(source)), 0


def check_source(
    source: Source, *, look: Callable[[Path], object], cancelled: Callable[[], bool]
) -> Iterator[Progress | Log]:
    """Look at the files of a source, and compare those that came with a published sum. Yields bytes compared.

    ``look`` opens a file and raises what is wrong with its beginning; it is asked about every file that matters.

    Raises:
        CriaError: what ``look`` raises.
        SourceError: a file cannot be read, is listed and missing, or differs from the list (both sums are named).
        Cancelled: ``cancelled`` said so.
    """
    small = [file for file in source.files if file.name in _LOOKED_AT]
    for file in (*source.weights, *small):
        try:
            look(source.folder / file.name)
        except OSError as problem:
            what = problem.strerror or str(problem)
            raise SourceError("sources.unreadable", source=f"{source.spec}/{file.name}", what=what) from problem
    published, done = _published(source), 0
    total = sum(file.size for file in published)
    for listed in published:
        note, digest = Message("sources.reading", {"file": listed.path.name}), hashlib.md5(usedforsecurity=False)
        for count in _read_through(listed.path, digest, source.spec):
            if cancelled():
                raise Cancelled("job.cancelled")
            done += count
            yield Progress(done, total, note)
        if digest.hexdigest() != listed.md5:
            sums = {"want": listed.md5, "have": digest.hexdigest(), "list": listed.list}
            raise SourceError("sources.checksum", file=listed.path.name, source=source.spec, **sums)
    if published:
        yield Log(Message("sources.checked", {"source": source.label, "count": len(published)}))


def _read_through(path: Path, digest: "hashlib._Hash", spec: str) -> Iterator[int]:
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                yield len(block)
    except OSError as problem:
        what = problem.strerror or str(problem)
        raise SourceError("sources.unreadable", source=f"{spec}/{path.name}", what=what) from problem
