"""A repository with revisions: names that point at commits, commits that are files. Knows nothing about HTTP."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.hub.content import Content, Flipped, Literal, OnDisk

# What the hub's own .gitattributes gives to LFS, as far as models have it.
_LFS_ENDINGS = (".bin", ".pth", ".pt", ".safetensors", ".model", ".zip", ".gz", ".tgz", ".tar", ".xz", ".bz2", ".gguf")
_LFS_FROM = 10_000_000  # bytes
MAIN = "main"

Files = Mapping[str, Content | bytes]


def is_lfs(path: str, content: Content) -> bool:
    """Tell whether a file is kept by LFS, with its sha256, rather than by git."""
    return path.endswith(_LFS_ENDINGS) or content.size > _LFS_FROM


def folder_files(folder: Path) -> dict[str, Content]:
    """Return every file below a folder by its path there, hidden ones left out."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder): path for path in found}
    return {
        name.as_posix(): OnDisk(path)
        for name, path in names.items()
        if not any(part.startswith(".") for part in name.parts)
    }


@dataclass
class Repository:
    """Files under ``owner/name``. A ``gated`` one is listed for everybody and served to a token that was granted it."""

    name: str
    gated: bool = False
    commits: dict[str, Mapping[str, Content]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def publish(self, files: Files, revision: str = MAIN) -> str:
        """Add a commit, let the revision point at it, and return its id."""
        commit = hashlib.sha1(f"{self.name} {len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[commit] = {
            path: Literal(content) if isinstance(content, bytes) else content for path, content in files.items()
        }
        self.revisions[revision] = commit
        return commit

    def move(self, revision: str = MAIN) -> str:
        """Publish the same files with all their bytes turned over: somebody pushed while a download was running."""
        files = self.commits[self.revisions[revision]]
        return self.publish({path: Flipped(content) for path, content in files.items()}, revision)

    def commit(self, revision: str) -> str | None:
        """Return the id of the commit that a branch, a tag or a commit id names."""
        return revision if revision in self.commits else self.revisions.get(revision)

    def files(self, revision: str = MAIN) -> Mapping[str, Content]:
        """Return the files of a revision that exists."""
        return self.commits[self.commit(revision) or revision]


def folders(paths: Iterable[str]) -> Iterator[str]:
    """Yield the folders that files lie in, each once, in order."""
    yield from sorted({str(parent) for path in paths for parent in Path(path).parents} - {"."})
