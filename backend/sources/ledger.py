"""Which files of the store one job has removed because it needs them no more, and what it remembers of them.

    FOLDER/ledger.json       what was there before the job began, and is therefore not its own; what it has removed
    FOLDER/KIND/REPO/REV/NAME   of each removed file those bytes that opening it had read, the rest are holes

A file is remembered before it is removed, so a crash at any moment leaves the file, or its memory, or both. Knows
nothing about jobs, or why a file is not needed.
"""

import json
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

from backend.sources.disk import writing
from backend.sources.extents import Extents, Span
from backend.storage import replace_file, sync_file, sync_folder

_FILE = "ledger.json"
_MOST = 8  # a file is not removed if more than one part in so many of it had to be remembered


def is_ledger(folder: Path) -> bool:
    """Tell whether a job has a ledger there."""
    return (folder / _FILE).is_file()


class Ledger:
    """The ledger of one job below ``folder``, about files below ``downloads``. Removing is for one thread at a time."""

    def __init__(self, folder: Path, downloads: Path, *, here: Collection[Path] = ()) -> None:
        """``here`` are the files that are in the store when the job begins; of a later run it says nothing.

        Raises:
            MachineError: the disk is full or cannot be written.
        """
        self.folder, self._downloads = folder, downloads
        self._before = {self._key(path) for path in here}
        self._removed = dict[str, list[Span]]()
        try:
            table = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            before = set(map(str, table["before"]))
            self._removed = {str(key): [(int(a), int(b)) for a, b in spans] for key, spans in table["removed"].items()}
            self._before = before
        except FileNotFoundError:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                self._save()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # nothing of it can be believed: what is here stays, what is gone comes again

    def is_own(self, path: Path) -> bool:
        """Tell whether a file came into the store for this job."""
        return self._key(path) not in self._before

    def is_removed(self, path: Path) -> bool:
        """Tell whether the job has removed a file."""
        return self._key(path) in self._removed

    def remembered(self, path: Path) -> Extents:
        """Return the bytes of a removed file that are remembered."""
        return Extents(self._removed.get(self._key(path), ()))

    def recall(self, path: Path, target: Path) -> None:
        """Put what is remembered of a removed file into its stand-in."""
        with (self.folder / self._key(path)).open("rb") as source, target.open("r+b") as out:
            _copy(source, out, self.remembered(path))

    def remove(self, path: Path, seen: Extents) -> bool:
        """Remove a file but for the memory of the bytes in ``seen``; tell whether that was done.

        Not while another name shares its bytes: that would free nothing. Nor if much of it had to be remembered.

        Raises:
            MachineError: the disk is full or cannot be written.
        """
        try:
            found = path.lstat()
        except FileNotFoundError:
            return self.is_removed(path)
        if not self.is_own(path) or path.is_symlink() or found.st_nlink > 1 or seen.total * _MOST > found.st_size:
            return False
        key = self._key(path)
        memory = self.folder / key
        with writing(self.folder):
            memory.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, memory.open("wb") as out:
                out.truncate(found.st_size)
                _copy(source, out, seen)
            sync_file(memory)
            sync_folder(memory.parent)
            self._removed[key] = list(seen)
            self._save()
            path.unlink()
        return True

    def restore(self, path: Path) -> None:
        """Forget that a file was removed: it is needed again."""
        with writing(self.folder):
            if self._removed.pop(self._key(path), None) is not None:
                self._save()
            (self.folder / self._key(path)).unlink(missing_ok=True)

    def tidy(self, paths: Iterable[Path]) -> None:
        """Remove again what a run that died had noted as removed."""
        for path in paths:
            if self.is_removed(path):
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the ledger: nothing is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _key(self, path: Path) -> str:
        return path.relative_to(self._downloads).as_posix()

    def _save(self) -> None:
        table = {"before": sorted(self._before), "removed": self._removed}
        replace_file(self.folder / _FILE, json.dumps(table).encode())


def _copy(source: BinaryIO, out: BinaryIO, spans: Iterable[Span]) -> None:
    for start, stop in spans:
        source.seek(start)
        out.seek(start)
        out.write(source.read(stop - start))
