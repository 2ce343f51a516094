"""Weights that are passed around as one archive file: listing it for a plan, and unpacking it into a folder of its own.

Only files that a model is made of come out, by their base names, from the one folder that holds weights; whatever an
archive could use to reach out of that folder or to fill the disk is refused. Knows nothing about weights formats.
"""

import gzip
import hashlib
import lzma
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from backend.errors import Cancelled, MachineError, SourceError
from backend.events import Progress
from backend.sources.source import WEIGHT_ENDINGS, Source, SourceFile
from backend.sources.tar_stream import Damaged, Member, Stream, TooMuch, members, open_tar
from backend.sources.zip_members import open_zip
from backend.text import Message

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
OTHER_ENDINGS = (".7z", ".rar", ".tar.zst", ".zip.001", ".7z.001", ".gz", ".bz2", ".xz")
_WANTED = (*WEIGHT_ENDINGS, ".json", ".model", ".jinja", ".chk")
_TRAINING = ("optimizer", "scheduler", "rng_state", "training_args", "trainer_state")  # never read, sometimes large
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_STRANGE = re.compile(r"[\\\x00-\x1f\x7f]|^/|^[A-Za-z]:|(^|/)\.\.(/|$)")
_REFUSED: Mapping[str, str] = {
    "link": "archive.is_link",
    "device": "archive.is_device",
    "encrypted": "archive.is_encrypted",
    "packing": "archive.is_packed_oddly",
}

MEMBER_LIMIT = 10_000
UNPACKED_LIMIT = 300_000_000_000  # bytes; the largest LLaMA in fp16 is 131 GB
RATIO_LIMIT = 100  # weights shrink by a third at most, settings by ten; what unpacks to more is made to fill the disk
_RATIO_FROM = 64_000_000  # bytes; below that it does not matter
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")  # gzip, bzip2, xz
_DISK_RESERVE = 64_000_000  # bytes left free
_PIECE = 4 << 20
_T = TypeVar("_T")


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive that can be unpacked here."""
    return path.name.lower().endswith(ENDINGS)


def is_other_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive of a kind that cannot be unpacked here."""
    return path.name.lower().endswith(OTHER_ENDINGS)


def unpacked_folder(archive: Path, into: Path) -> Path:
    """Return the folder below ``into`` that this archive, as it is now, unpacks to; it exists once it is complete."""
    now = archive.stat()
    digest = hashlib.sha256(f"{archive}:{now.st_size}:{now.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    stem = re.sub(r"[^A-Za-z0-9._-]", "", archive.name.split(".")[0])[:60]
    return into / f"{stem}-{digest.hexdigest()[:12]}"


def open_archive(archive: Path, spec: str) -> Source:
    """Return an archive as a source. A compressed tar has no list, and minutes of decompressing would have to tell what
    is in it: it is its own only file until it is unpacked.

    Raises:
        SourceError: as ``list_archive``.
    """
    try:
        sealed = _is_sealed(archive)
        files = (SourceFile(archive.name, archive.stat().st_size),) if sealed else list_archive(archive, spec)
    except OSError as problem:
        raise SourceError("sources.unreadable", source=spec, what=problem.strerror or str(problem)) from problem
    return Source(spec, archive, files, packed=True)


def _is_sealed(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(6).startswith(_COMPRESSED)


def list_archive(archive: Path, spec: str) -> tuple[SourceFile, ...]:
    """Return the files that unpacking would give. A compressed tar is decompressed for this.

    Raises:
        SourceError: unreadable, damaged, encrypted, reaching out of its folder, too large, or without weights.
    """
    with _members(archive, spec) as (found, _):
        return _choose(list(found), archive, spec)


def unpack(source: Source, into: Path, *, cancelled: Callable[[], bool]) -> Iterator[Progress]:
    """Unpack a packed source below ``into``, where ``unpacked_folder`` says; what an interrupted run left is cleared.

    Yields bytes written of the bytes that ``source.files`` have together; where those are the archive alone, its share.

    Raises:
        SourceError: as ``list_archive``, or a file's bytes are not what the archive says.
        MachineError: the disk is too small.
        Cancelled: ``cancelled`` said so.
    """
    home = unpacked_folder(source.folder, into)
    files = list_archive(source.folder, source.spec) if _is_sealed(source.folder) else source.files
    total = sum(file.size for file in files)
    part = home.with_name(f"{home.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    _check_room(part, total)
    wanted, done = {file.member: file for file in files}, 0
    with _members(source.folder, source.spec) as (found, content):
        for member in found:
            if (file := wanted.pop(member.name, None)) is None:
                continue
            note = Message("archive.unpacking", {"file": file.name, "source": source.label})
            for count in _write(part / file.name, content(member), file.size, source.spec):
                if cancelled():
                    raise Cancelled("job.cancelled")
                done += count
                yield Progress(source.bytes * done // total, source.bytes, note)
    if wanted:
        raise SourceError("archive.damaged", source=source.spec)
    part.rename(home)


def _write(path: Path, content: Iterator[bytes], size: int, spec: str) -> Iterator[int]:
    """Write one file of exactly ``size`` bytes and make it durable; yields bytes as they are written."""
    with path.open("xb") as out:
        for piece in content:
            yield out.write(piece[:size])
            size -= len(piece)
            if size < 0:
                break
        if size:
            raise SourceError("archive.damaged", source=spec)
        out.flush()
        os.fsync(out.fileno())


def _check_room(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need + _DISK_RESERVE:
        raise MachineError("archive.disk", folder=str(folder.parent), need=need + _DISK_RESERVE, free=free)


# --- which members ----------------------------------------------------------------------------------------------------


def _choose(found: Sequence[Member], archive: Path, spec: str) -> tuple[SourceFile, ...]:
    """Return the files to take: what models are made of, in the one folder that holds weights."""
    files = [member for member in found if _is_usable(member, spec) and member.kind == "file"]
    weights = [member for member in files if member.name.lower().endswith(WEIGHT_ENDINGS) and _is_wanted(member)]
    if not weights:
        names = ", ".join(PurePosixPath(member.name).name[:60] for member in files[:6])
        raise SourceError("archive.nothing", source=spec, files=names or "-")
    folders = {PurePosixPath(member.name).parent for member in weights}
    home = min(folders, key=lambda folder: len(folder.parts))
    if any(not folder.is_relative_to(home) for folder in folders):
        raise SourceError("archive.several", source=spec, folders=", ".join(sorted(map(str, folders))[:6])[:300])
    wanted: dict[str, SourceFile] = {}  # by their names without regard to case, as some file systems have them
    for member in files:
        path = PurePosixPath(member.name)
        if path.parent == home and _is_wanted(member):
            if path.name.lower() in wanted:
                raise SourceError("archive.twice", source=spec, name=path.name)
            wanted[path.name.lower()] = SourceFile(path.name, member.size, member.name)
    total = sum(file.size for file in wanted.values())
    if total > _bound(archive):
        raise SourceError("archive.bomb", source=spec, unpacked=total)
    return tuple(sorted(wanted.values(), key=lambda file: file.name))


def _is_wanted(member: Member) -> bool:
    name = PurePosixPath(member.name).name
    return bool(_PLAIN.fullmatch(name)) and name.endswith(_WANTED) and not name.startswith(_TRAINING)


def _is_usable(member: Member, spec: str) -> bool:
    """Tell whether a member is part of what somebody packed, and not a file manager's own; refuse the dangerous."""
    if _STRANGE.search(member.name) or len(member.name) > 1000:
        raise SourceError("archive.unsafe", source=spec, name=member.name[:120])
    parts = PurePosixPath(member.name).parts
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return False
    if member.kind in _REFUSED:
        raise SourceError(_REFUSED[member.kind], source=spec, name=member.name[:120])
    return True


def _bound(archive: Path) -> int:
    """Return the bytes that may come out of an archive."""
    return min(UNPACKED_LIMIT, max(_RATIO_FROM, RATIO_LIMIT * archive.stat().st_size))


# --- the two kinds of archive -----------------------------------------------------------------------------------------

Content = Callable[[Member], Iterator[bytes]]


# What the libraries raise on damaged or hostile archives.
_DAMAGED = (Damaged, zipfile.BadZipFile, gzip.BadGzipFile, NotImplementedError, RuntimeError, EOFError, zlib.error,
            lzma.LZMAError, ValueError, OverflowError)  # fmt: skip


@contextmanager
def _members(archive: Path, spec: str) -> Iterator[tuple[Iterator[Member], Content]]:
    """Open an archive: its members in order, and a function for the bytes of the one that came last.

    Raises:
        SourceError: it cannot be read, is no archive, or is damaged; the iterators raise the same.
    """
    bound = _bound(archive)
    with ExitStack() as opened:
        with _blamed(spec, bound):
            with archive.open("rb") as file:
                start = file.read(512)
            if start.startswith(b"PK"):
                packed = opened.enter_context(open_zip(archive))
                found, read = packed.members(), packed.content
            elif start.startswith(_COMPRESSED) or start[257:262] == b"ustar":
                stream = opened.enter_context(open_tar(archive, bound + MEMBER_LIMIT * 1024))
                found, read = members(stream), partial(_tar_content, stream)
            else:
                raise SourceError("archive.not_archive", source=spec, start=start[:40].decode("utf-8", "replace"))
        yield _guarded(_counted(found, spec), spec, bound), lambda member: _guarded(read(member), spec, bound)


@contextmanager
def _blamed(spec: str, bound: int) -> Iterator[None]:
    """Turn what goes wrong with reading an archive into a sentence."""
    try:
        yield
    except TooMuch as problem:
        raise SourceError("archive.bomb", source=spec, unpacked=bound) from problem
    except _DAMAGED as problem:
        raise SourceError("archive.damaged", source=spec) from problem
    except OSError as problem:
        raise SourceError("sources.unreadable", source=spec, what=problem.strerror or str(problem)) from problem


def _guarded(items: Iterator[_T], spec: str, bound: int) -> Iterator[_T]:
    """Yield the same items; what goes wrong in making them is blamed on the archive, what the caller does is not."""
    with _blamed(spec, bound):
        yield from items


def _counted(found: Iterator[Member], spec: str) -> Iterator[Member]:
    for number, member in enumerate(found):
        if number >= MEMBER_LIMIT:
            raise SourceError("archive.too_many", source=spec, limit=MEMBER_LIMIT)
        yield member


def _tar_content(stream: Stream, member: Member) -> Iterator[bytes]:
    missing = member.size
    while missing:
        piece = stream.read(min(_PIECE, missing))
        if not piece:
            raise Damaged
        missing -= len(piece)
        yield piece
