"""What a plan fetches, what lies in the store of downloads, and which set-ups still need it, for people to look at.

Knows nothing about networks or how a list is drawn.
"""

from dataclasses import dataclass
from pathlib import Path

from backend.errors import JobError, SourceError
from backend.jobs.manager import JobManager
from backend.jobs.view import JobState
from backend.plan import Plan
from backend.sources.pinned import Pinned
from backend.sources.store import delete, list_downloads

_PREFIXES = {"hf": "", "modelscope": "modelscope:", "web": "web:"}
_SHORT = 12  # digits of a commit, as hubs show it


@dataclass(frozen=True)
class Stored:
    """One download. ``users`` are the models of unfinished set-ups that need it; ``is_busy``: one of them runs."""

    name: str  # as the terminal and the page call it: org/repo@commit
    folder: Path
    bytes: int
    is_complete: bool
    users: tuple[str, ...]
    is_busy: bool

    @property
    def is_unused(self) -> bool:
        """Whether nothing is lost by deleting it."""
        return not self.users and not self.is_busy


@dataclass(frozen=True)
class Coming:
    """A source that a plan fetches: its version and page on the hub, which servers may send it, ``there`` of its bytes
    are on this machine. A single file on the web has neither version nor page.
    """

    source: str
    repository: str
    version: str
    page: str
    hosts: tuple[str, ...]
    bytes: int
    there: int


def _coming(remote: Pinned, downloads: Path) -> Coming:
    listing = remote.listing
    place = f"models/{listing.repository}" if listing.kind == "modelscope" else listing.repository
    on_hub = listing.kind != "web"
    return Coming(
        source=remote.spec,
        repository=listing.repository,
        version=listing.revision[:_SHORT] if on_hub else "",
        page=f"{listing.endpoint}/{place}" if on_hub else "",
        hosts=tuple(dict.fromkeys((listing.host, *(other.host for other in remote.others)))),
        bytes=listing.bytes,
        there=listing.bytes - remote.missing_bytes(downloads),
    )


def needed_by_others(jobs: JobManager, downloads: Path, *, but: str) -> set[Path]:
    """Return the folders of the store that are not one set-up's alone: unfinished ones need them, or one that ran after
    it had begun, and is done, was told to keep them.
    """
    views = jobs.views()
    begun = min((view.started for view in views if view.id == but), default=0.0)
    found = set[Path]()
    for view in views:
        if view.id != but and (view.state is not JobState.DONE or (view.ran > begun and _keeps(jobs, view.id))):
            found |= _needs(downloads, jobs, view.id)
    return found


def _keeps(jobs: JobManager, job: str) -> bool:
    try:
        return jobs.plan(job).keep_sources
    except JobError:
        return False


def _needs(downloads: Path, jobs: JobManager, job: str) -> set[Path]:
    try:
        return {remote.folder(downloads) for remote in jobs.plan(job).remotes}
    except JobError:  # somebody deleted it a moment ago
        return set()


class Stock:
    """The store of one data folder, with the set-ups that use it."""

    def __init__(self, downloads: Path, jobs: JobManager) -> None:
        self._downloads, self._jobs = downloads, jobs

    def all(self) -> tuple[Stored, ...]:
        """Return everything that was fetched and is still here, by name."""
        views = [view for view in self._jobs.views() if view.state is not JobState.DONE]
        needs = {view.id: _needs(self._downloads, self._jobs, view.id) for view in views}
        found = []
        for one in list_downloads(self._downloads):
            users = [view for view in views if one.folder in needs[view.id]]
            busy = one.in_use or any(view.state.is_active for view in users)
            name = f"{_PREFIXES[one.kind]}{one.repository}@{one.revision[:_SHORT]}"
            models = tuple(dict.fromkeys(view.model for view in users))
            found.append(Stored(name, one.folder, one.bytes, one.is_complete, models, busy))
        return tuple(sorted(found, key=lambda one: one.name))

    def coming(self, plan: Plan) -> tuple[Coming, ...]:
        """Return what a plan fetches."""
        return tuple(_coming(remote, self._downloads) for remote in plan.remotes)

    def of_job(self, job: str) -> int:
        """Return the bytes of a job's downloads that are on this machine.

        Raises:
            JobError: there is none of that id.
        """
        return sum(one.there for one in self.coming(self._jobs.plan(job)))

    def delete(self, name: str) -> int:
        """Remove a download by its name, the commit may be left away where there is one; return the bytes freed.

        Raises:
            SourceError: there is none of that name, or a set-up that runs needs it.
        """
        found = [one for one in self.all() if name in {one.name, one.name.partition("@")[0]}]
        if len(found) != 1:
            raise SourceError("fetchui.not_one" if found else "fetchui.no_such", name=name[:200])
        if found[0].is_busy:
            raise SourceError("download.in_use", repository=found[0].name)
        return delete(self._downloads, found[0].folder)

    def delete_unused(self) -> int:
        """Remove every download that no set-up needs; return the bytes freed."""
        return sum(self.delete(one.name) for one in self.all() if one.is_unused)
