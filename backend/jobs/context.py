"""What the steps of a job share. Knows nothing about what a step does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import SourceError
from backend.jobs.lean import Lean
from backend.jobs.view import Sample
from backend.plan import Plan
from backend.sources.access import Access
from backend.sources.arriving import Arriving
from backend.sources.folder import open_source
from backend.sources.pace import Bucket
from backend.sources.pinned import Pinned
from backend.sources.source import Source


@dataclass
class Context:
    """What a job's steps share. ``sample`` and ``child_memory`` (bytes) are filled in by the try-out."""

    plan: Plan
    models_dir: Path
    partial: Path
    logs_dir: Path
    cancelled: Callable[[], bool]
    downloads: Path
    access: Access = field(default_factory=Access)
    sample: Sample | None = None
    child_memory: int = 0
    arriving: Arriving | None = None  # while merging does not wait for the last byte
    lean: Lean | None = None  # where source files are removed once nothing needs them

    @property
    def unpacked(self) -> Path:
        """Where archives among the sources are unpacked; gone before the model is on the shelf."""
        return self.partial / ".sources"

    @property
    def staged(self) -> Path:
        """Where stand-ins are for files that are on their way; gone before the model is on the shelf."""
        return self.partial / ".arriving"

    @property
    def remotes(self) -> tuple[Pinned, ...]:
        """What has to be fetched: without the files that were removed since nothing needs them."""
        return self.lean.without_removed(self.plan.remotes) if self.lean else self.plan.remotes

    def open(self, spec: str) -> Source:
        """Open a source of the plan; an archive is the folder that it was unpacked to."""
        pinned = self.plan.pinned(spec)
        if pinned is None:
            return open_source(spec, unpacked=self.unpacked)
        return pinned.source(self.downloads, unpacked=self.unpacked)

    def stage(self, spec: str) -> Path:
        """Return the folder of a source of the plan while it may still be on its way."""
        pinned = self.plan.pinned(spec)
        if pinned is None or self.arriving is None:
            return self.folder(spec)
        return self.arriving.folder(pinned.folder(self.downloads))

    def folder(self, spec: str) -> Path:
        """Return the folder with the files of a source of the plan.

        Raises:
            SourceError: it is an archive, and what was unpacked of it is gone.
        """
        source = self.open(spec)
        if source.packed:
            raise SourceError("archive.changed", source=spec)
        return source.folder

    def make_arriving(self, cancelled: Callable[[], bool], *, bucket: Bucket) -> Arriving:
        """Return stand-ins for what is fetched."""
        sources = [(remote.listing, remote.folder(self.downloads)) for remote in self.plan.remotes]
        ledger = self.lean.ledger if self.lean else None
        return Arriving(
            self.staged, sources, options=self.access.options, bucket=bucket, cancelled=cancelled, ledger=ledger
        )
