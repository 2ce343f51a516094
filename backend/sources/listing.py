"""What a remote source holds: names, sizes and hashes of its files, pinned to one commit, and which of them are needed.

A listing comes from a server nobody vouches for. Its shapes are checked here, before a name becomes a path or an
address. Knows nothing about how a listing is got or how its files are fetched.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from backend.errors import SourceError
from backend.sources.source import SourceFile
from backend.sources.spec import Repository

FILE_LIMIT = 20_000
SIZE_LIMIT = 1 << 42  # bytes of one file; the largest shard of any LLaMA is 50 GB
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_STRANGE = re.compile(r"[\\\x00-\x1f\x7f]|^/|^[A-Za-z]:|(^|/)\.{1,2}(/|$)|//")

_KINDS = (".safetensors", ".bin", ".pth", ".pt")  # of weights, the best first
_NOT_WEIGHTS = re.compile(
    r"(optimizer|scheduler|rng_state|training_args|trainer_state|scaler|random_states|tf_model|flax_model|model\.onnx)"
)
_SMALL = (".json", ".model", ".jinja", ".chk", "merges.txt", "vocab.txt")
_SMALL_LIMIT = 1 << 28  # bytes; a tokenizer has 17 MB at most


@dataclass(frozen=True)
class RemoteFile:
    """One file: its name in the finished folder, its length in bytes, its address, and what proves its bytes.

    ``git_sha1`` is sha1 over ``blob SIZE``, a zero byte and the bytes; LFS files have ``sha256``; a file on the web may
    have neither, only the server's ``etag``.
    """

    name: str
    size: int
    url: str
    sha256: str | None = None
    git_sha1: str | None = None
    etag: str | None = None

    @property
    def identity(self) -> str:
        """What this file's bytes are known by; the same bytes elsewhere have the same."""
        if self.sha256:
            return f"sha256:{self.sha256}"
        if self.git_sha1:
            return f"git:{self.git_sha1}"
        return f"web:{hashlib.sha256(f'{self.url} {self.etag}'.encode()).hexdigest()}"  # an address may hold a secret


@dataclass(frozen=True)
class Listing:
    """The files that are needed of a source. ``revision`` is 40 hexadecimal digits: a commit, or what stands for one.

    ``endpoint`` is the server's scheme and host, which the token belongs to.
    """

    kind: Literal["hf", "modelscope", "web"]
    repository: str
    revision: str
    endpoint: str
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def host(self) -> str:
        """The server's name, for sentences."""
        return urlsplit(self.endpoint).netloc

    @property
    def source_files(self) -> tuple[SourceFile, ...]:
        """The files as a plan knows them."""
        return tuple(SourceFile(file.name, file.size) for file in self.files)

    def at(self, endpoint: str) -> "Listing":
        """Return the same commit at another server with the hub's interface: the same hashes, other addresses."""
        files = (replace(file, url=endpoint + file.url.removeprefix(self.endpoint)) for file in self.files)
        return replace(self, endpoint=endpoint, files=tuple(files))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the inverse of ``from_json``. It holds no token."""
        return {**self.__dict__, "files": [file.__dict__ for file in self.files]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Listing":
        """Build a listing from what ``to_json`` returned."""
        return Listing(**{**data, "files": tuple(RemoteFile(**file) for file in data["files"])})


@dataclass(frozen=True)
class Entry:
    """One file as a server lists it, nothing checked yet."""

    path: Any
    size: Any
    sha256: Any = None
    git_sha1: Any = None
    revision: Any = None


def checked_commit(value: Any, host: str) -> str:
    """Return a commit id after looking at its shape.

    Raises:
        SourceError: it is none.
    """
    if not isinstance(value, str) or not _COMMIT.fullmatch(value):
        raise SourceError("download.bad_listing", host=host, what=f"commit {str(value)[:60]!r}")
    return value


def checked_entries(entries: Iterable[Entry], host: str, *, hashed: bool = True) -> tuple[Entry, ...]:
    """Return the entries after looking at the shape of each; ``hashed``: this kind of server has a hash for each.

    Raises:
        SourceError: a name that reaches out of the folder, a size or hash that is none, too many files, a name twice.
    """
    found: dict[str, Entry] = {}
    for number, entry in enumerate(entries):
        path, size = entry.path, entry.size
        if number >= FILE_LIMIT:
            raise SourceError("download.bad_listing", host=host, what=f"> {FILE_LIMIT} files")
        if not isinstance(path, str) or not 0 < len(path) <= 1000 or _STRANGE.search(path) or path in found:
            raise SourceError("download.bad_listing", host=host, what=f"file name {str(path)[:120]!r}")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= SIZE_LIMIT:
            raise SourceError("download.bad_listing", host=host, what=f"{path[:120]}: size {str(size)[:40]!r}")
        for value, shape in ((entry.sha256, _SHA256), (entry.git_sha1, _COMMIT)):
            if value is not None and (not isinstance(value, str) or not shape.fullmatch(value)):
                raise SourceError("download.bad_listing", host=host, what=f"{path[:120]}: hash {str(value)[:80]!r}")
        if hashed and entry.sha256 is None and entry.git_sha1 is None:
            raise SourceError("download.bad_listing", host=host, what=f"{path[:120]}: no hash")
        found[path] = entry
    return tuple(found.values())


def choose(entries: Sequence[Entry], wanted: Repository) -> tuple[Entry, ...]:
    """Return the entries that a model needs: its settings, its tokenizer, and its weights in one kind of file.

    Raises:
        SourceError: there is nothing to use in that folder; the error names what there is.
    """
    prefix = f"{wanted.folder}/" if wanted.folder else ""
    here = {entry.path.removeprefix(prefix): entry for entry in entries if entry.path.startswith(prefix)}
    here = {name: entry for name, entry in here.items() if _PLAIN.fullmatch(name)}
    if wanted.file:
        if wanted.file not in here:
            raise SourceError("download.no_file", repository=wanted.name, file=wanted.file)
        return (here[wanted.file],)
    weights = _weights(here)
    if not weights:
        return _nothing(entries, here, wanted)
    small = [entry for name, entry in here.items() if name.endswith(_SMALL) and entry.size <= _SMALL_LIMIT]
    indexes = tuple(f"{ending}.index.json" for ending in _KINDS if not weights[0].path.endswith(ending))
    small = [entry for entry in small if not entry.path.endswith(indexes) and not _is_leftover(entry.path)]
    return tuple(sorted([*small, *weights], key=lambda entry: entry.path))


def _weights(here: Mapping[str, Entry]) -> list[Entry]:
    usable = {name: entry for name, entry in here.items() if entry.size and not _is_leftover(name)}
    for ending in _KINDS:
        found = {name: entry for name, entry in usable.items() if name.endswith(ending)}
        whole = {name: entry for name, entry in found.items() if not name.startswith("consolidated")}
        if ending == ".safetensors" and whole:  # Mistral and others publish the same weights twice in this kind
            found = whole
        if found:
            return list(found.values())
    return []


def _is_leftover(path: str) -> bool:
    return bool(_NOT_WEIGHTS.match(path.rpartition("/")[2]))


def _nothing(entries: Sequence[Entry], here: Mapping[str, Entry], wanted: Repository) -> tuple[Entry, ...]:
    """Say what to do about a folder without weights: another folder of the repository may have some."""
    folders = sorted({entry.path.rpartition("/")[0] for entry in entries if entry.path.endswith(_KINDS) and entry.size})
    if folders := [folder for folder in folders if folder and folder != wanted.folder]:
        raise SourceError("download.in_folders", repository=wanted.name, folders=", ".join(folders[:6])[:200],
                          revision=wanted.revision or "main", folder=folders[0])  # fmt: skip
    names = ", ".join(list(here)[:6])[:200]
    raise SourceError("download.no_weights", repository=wanted.name, files=names or "-")


def hub_url(endpoint: str, repository: str, commit: str, path: str) -> str:
    """Return the address of a file at a server with the hub's interface."""
    return f"{endpoint}/{repository}/resolve/{commit}/{quote(path)}"
