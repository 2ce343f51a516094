"""Source files that are removed once nothing needs them: which ones may be, and when.

Only what was fetched for this job, never what was here before, what other names share, or what another job needs or
was told to keep; and only after everything that is made of it is durable. Knows nothing about how files are fetched or
read.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from backend.arrival import Output, in_order
from backend.errors import MachineError
from backend.plan import Plan
from backend.plan.disk import spare
from backend.sources import store
from backend.sources.arriving import Arriving
from backend.sources.gate import Gate
from backend.sources.ledger import Ledger
from backend.sources.pinned import Pinned
from backend.sources.source import WEIGHT_ENDINGS
from backend.storage import PART, disk_bytes, free_bytes

REMOVED = ".removed"  # in the unfinished model's folder
Elsewhere = Callable[[], Collection[Path]]  # folders of the store that other unfinished jobs need


class Lean:
    """The removing of one job's source files. ``promised`` is the most bytes that its plan said it would take."""

    def __init__(self, plan: Plan, downloads: Path, partial: Path, *, elsewhere: Elsewhere) -> None:
        self._remotes, self._promised = plan.remotes, plan.lean_disk_bytes - spare(plan.remotes)
        self._downloads, self._partial, self._elsewhere = downloads, partial, elsewhere
        here, others = [path for path in self._files() if path.exists()], elsewhere()
        self.ledger = Ledger(partial / REMOVED, downloads, here=here)
        if not plan.keep_sources:  # else it was fetched once more, to stay
            self.ledger.tidy(path for path in self._files() if path.parent not in others)
        self.gate: Gate | None = None
        self._arriving: Arriving | None = None

    def _files(self) -> list[Path]:
        return [remote.folder(self._downloads) / file.name for remote in self._remotes for file in remote.listing.files]

    @property
    def has_removed(self) -> bool:
        """Whether a source is not whole any more."""
        return any(map(self.ledger.is_removed, self._files()))

    def without_removed(self, remotes: Sequence[Pinned]) -> tuple[Pinned, ...]:
        """Return what is to be fetched but for the files that were removed."""
        return tuple(self._without_removed(remote) for remote in remotes)

    def _without_removed(self, remote: Pinned) -> Pinned:
        folder = remote.folder(self._downloads)
        kept = tuple(file for file in remote.listing.files if not self.ledger.is_removed(folder / file.name))
        return replace(remote, listing=replace(remote.listing, files=kept))

    def begin(self, arriving: Arriving) -> None:
        """Let the files come one by one, from here on."""
        elsewhere, self._arriving = self._elsewhere(), arriving
        sources, sizes = list[list[tuple[Path, str, int]]](), dict[Path, int]()
        here, begun = list[Path](), list[Path]()
        for remote in self._remotes:
            folder = remote.folder(self._downloads)
            ready, files = store.ready_files(folder), list[tuple[Path, str, int]]()
            for file in remote.listing.files:
                path = folder / file.name
                if not file.name.endswith(WEIGHT_ENDINGS) or not self.ledger.is_own(path) or folder in elsewhere:
                    continue
                files.append((path, file.name, file.size))
                sizes[path] = file.size
                here += [path] if store.is_ready(folder, file, ready) else []
                begun += [path] if _disk_bytes_of(folder / store.PARTS / f"{file.name}{PART}") else []
            sources.append(sorted(files, key=lambda one: one[1]))
        self.gate = Gate(in_order(sources), sizes, here=here, begun=begun)
        for path in sizes:
            if self.ledger.is_removed(path):
                self.gate.removed(path)

    def foresee(self, outputs: Sequence[Output[Path]]) -> int:
        """Take note of the files that will be made; return the most bytes that will be on the disk.

        Raises:
            MachineError: it is more than was promised, for the sources are laid out in an unusual order, and does not
                fit.
        """
        if self.gate is None or self._arriving is None:
            return 0
        real = self._arriving.real
        known = [Output(one.size, frozenset(map(real, one.begins)), frozenset(map(real, one.needs))) for one in outputs]
        most = self.gate.foresee(known, self._promised)
        folders = {remote.folder(self._downloads) for remote in self._remotes}
        used = disk_bytes(self._partial) + sum(disk_bytes(folder) for folder in folders)
        free = free_bytes(self._partial)
        if most > max(self._promised, used + free):
            raise MachineError("lean.more_room", need=most - used, free=free, folder=str(self._downloads))
        return most

    def made(self, _: str = "") -> None:
        """Take note that the next file is durable; remove what nothing needs any more."""
        if self.gate is None or self._arriving is None:
            return
        unneeded, elsewhere = self.gate.made(), self._elsewhere()
        for path in sorted(unneeded):
            if path.parent not in elsewhere and self._arriving.remove(path):
                self.gate.removed(path)

    def finish(self) -> None:
        """Remove everything that was fetched for this job: the model is made."""
        elsewhere = self._elsewhere()
        for remote in self._remotes:
            folder = remote.folder(self._downloads)
            if folder not in elsewhere:
                names = [file.name for file in remote.listing.files if self.ledger.is_own(folder / file.name)]
                store.remove_files(folder, names)


def _disk_bytes_of(path: Path) -> int:
    """Return the bytes that one file takes on the disk; 0 where there is none."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
