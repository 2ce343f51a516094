"""Sources already on this machine: a folder a person names, or one built into Cria. Knows nothing about formats.

A local folder is used in place, never copied. Checking it means reading every byte once: what cannot be read now would
only fail later, in the middle of a long step.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.errors import Cancelled, SourceError
from backend.events import Log, Progress
from backend.settings import ASSETS
from backend.text import Message

BUILTIN = "builtin:"
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pth", ".pt")  # the best kind first
_BLOCK = 4 << 20
_REPOSITORY = re.compile(r"(modelscope:)?[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, by its name inside the folder, with its length in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Source:
    """A place with weights. ``spec`` is what was asked for; ``folder`` is where the bytes are."""

    spec: str
    folder: Path
    files: tuple[SourceFile, ...]

    @property
    def label(self) -> str:
        """What to call it in a sentence."""
        return self.spec.removeprefix(BUILTIN)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        return any(file.name == name for file in self.files)

    @property
    def address(self) -> str:
        """What means the same place from any working directory."""
        return self.spec if self.spec.startswith(BUILTIN) else str(self.folder)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the files that hold weights: of the best kind only, where a folder has the same ones twice."""
        kinds = (sum(file.size for file in self.files if file.name.endswith(ending)) for ending in WEIGHT_ENDINGS)
        return next((size for size in kinds if size), 0)


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


def open_source(spec: str) -> Source:
    """List what a source holds, without reading it.

    Raises:
        SourceError: the folder is missing, unreadable or holds no weights, or the spec is a kind not known here.
    """
    try:
        path = builtin_path(spec) or Path(spec).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as problem:  # a name too long, a person who is not there, a zero byte
        raise SourceError("sources.no_path", source=spec[:200], what=str(problem)[:200]) from problem
    if is_file:
        raise SourceError("sources.is_file", source=spec, folder=str(path.parent))
    if not is_folder:
        local = spec.startswith((BUILTIN, ".", "/", "~"))
        remote = spec.startswith(("https://", "http://")) or (not local and _REPOSITORY.fullmatch(spec))
        key = "sources.not_local" if remote else "sources.missing"
        raise SourceError(key, source=spec)
    try:
        found = tuple(
            SourceFile(entry.name, entry.stat().st_size)
            for entry in sorted(path.iterdir())
            if entry.is_file() and not entry.name.startswith(".")
        )
    except OSError as problem:
        raise SourceError("sources.unreadable", source=spec, what=problem.strerror or str(problem)) from problem
    source = Source(spec, path.resolve(), found)
    if not source.weight_bytes:
        raise SourceError("sources.no_weights", source=spec, files=", ".join(f.name for f in found[:6]) or "-")
    return source


def _checklist(folder: Path) -> dict[str, str]:
    """Return name -> md5 of Meta's ``checklist.chk`` (lines of ``md5  name``), empty where there is none."""
    path = folder / "checklist.chk"
    if not path.is_file():
        return {}
    rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {row[1].strip().lstrip("*"): row[0].lower() for row in rows if len(row) == 2 and len(row[0]) == 32}


def _read_through(path: Path, digest: "hashlib._Hash | None", cancelled: Callable[[], bool]) -> Iterator[int]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if cancelled():
                raise Cancelled("job.cancelled")
            if digest is not None:
                digest.update(block)
            yield len(block)


def check_source(source: Source, *, cancelled: Callable[[], bool]) -> Iterator[Progress | Log]:
    """Read every byte of a source once and compare with its checklist, if it came with one.

    Raises:
        SourceError: a file vanished, cannot be read, or differs from the checklist (the message names both hashes).
        Cancelled: ``cancelled`` said so.
    """
    expected, done = _checklist(source.folder), 0
    for file in source.files:
        digest = hashlib.md5(usedforsecurity=False) if file.name in expected else None
        note = Message("sources.reading", {"file": file.name})
        try:
            for count in _read_through(source.folder / file.name, digest, cancelled):
                done += count
                yield Progress(done, source.bytes, note)
        except OSError as problem:
            what = problem.strerror or str(problem)
            raise SourceError("sources.unreadable", source=f"{source.spec}/{file.name}", what=what) from problem
        if digest is not None and digest.hexdigest() != expected[file.name]:
            want, have = expected[file.name], digest.hexdigest()
            raise SourceError("sources.checksum", file=file.name, source=source.spec, want=want, have=have)
    if expected:
        yield Log(Message("sources.checked", {"source": source.label, "count": len(expected)}))
