"""A remote source, pinned: what was asked for, what it holds at one commit, and who else has the same bytes.

Everything a job needs to fetch it, so that the hub is asked once and a branch that moves meanwhile changes nothing.
Knows nothing about plans or how bytes are fetched.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backend.errors import SourceError
from backend.sources.access import Access
from backend.sources.archive import is_archive
from backend.sources.folder import builtin_path, open_source
from backend.sources.listing import Listing
from backend.sources.remote import MODELSCOPE, list_remote
from backend.sources.source import Source
from backend.sources.spec import Local, parse
from backend.sources.store import bytes_there, home, is_complete


@dataclass(frozen=True)
class Pinned:
    """What ``spec`` means on the network. ``others`` are the same files on other servers, in order of preference."""

    spec: str
    listing: Listing
    others: tuple[Listing, ...] = ()

    def folder(self, downloads: Path) -> Path:
        """Return the folder that it is fetched into."""
        return home(downloads, self.listing)

    def missing_bytes(self, downloads: Path) -> int:
        """Return the bytes that are not on this machine yet."""
        return max(0, self.listing.bytes - bytes_there(self.folder(downloads), self.listing))

    def source(self, downloads: Path, *, unpacked: Path | None = None) -> Source:
        """Return the source as it will be or, once it was fetched, as it is.

        Raises:
            SourceError: what was fetched holds no weights.
        """
        folder, files = self.folder(downloads), self.listing.source_files
        packed = len(files) == 1 and is_archive(folder / files[0].name)
        if is_complete(folder, self.listing):
            found = open_source(str(folder / files[0].name if packed else folder), unpacked=unpacked)
            return replace(found, spec=self.spec)
        return Source(self.spec, folder, files, packed=packed)

    def through(self, chosen: str) -> "Pinned":
        """Return this with another hub in front; what a hub cannot have, and anything while none was chosen, stays.

        Commit and hashes are still those that were pinned, whoever sends the bytes.
        """
        if not chosen or self.listing.kind != "hf" or chosen in {MODELSCOPE, self.listing.endpoint}:
            return self
        others = (self.listing, *(one for one in self.others if one.endpoint != chosen))
        return replace(self, listing=self.listing.at(chosen), others=others)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the inverse of ``from_json``. It holds no token."""
        others = [other.to_json() for other in self.others]
        return {"spec": self.spec, "listing": self.listing.to_json(), "others": others}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Pinned":
        """Build a pinned source from what ``to_json`` returned."""
        others = tuple(map(Listing.from_json, data["others"]))
        return Pinned(str(data["spec"]), Listing.from_json(data["listing"]), others)


def is_remote(spec: str) -> bool:
    """Tell whether the network has to be asked about a source; asks nobody.

    Raises:
        SourceError: it cannot be understood.
    """
    return not isinstance(parse(spec), Local) and not _is_here(spec)


def find_source(spec: str, *, access: Access, cancelled: Callable[[], bool] = lambda: False) -> Pinned | None:
    """Return a source pinned if it is a remote one, None if it is on this machine. A folder here comes first.

    Raises:
        SourceError: nobody has it, nobody answers, or it cannot be understood.
        Cancelled: ``cancelled`` said so.
    """
    wanted = parse(spec)
    if isinstance(wanted, Local) or _is_here(spec):
        return None
    listing, others = list_remote(wanted, servers=access.servers, cancelled=cancelled)
    return Pinned(spec, listing, others)


def _is_here(spec: str) -> bool:
    try:
        return builtin_path(spec) is not None or Path(spec).expanduser().exists()
    except (OSError, RuntimeError, ValueError) as problem:
        raise SourceError("sources.no_path", source=spec[:200], what=str(problem)[:200]) from problem
