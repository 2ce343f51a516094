"""What is on the shelf and what is wrong with it, remembered as long as the folders stay as they were.

A page asks every few seconds; a look opens weights and takes a tenth of a second a folder. So each folder's figures and
findings are kept with a stamp of its files, findings also on the disk for the next run. Knows nothing about what uses a
model, or how a look is done.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.library.asking import Take, examine_all
from backend.library.condition import Condition
from backend.library.listing import list_folder
from backend.library.models import BEFORE, ModelInfo, describe, shelf_folders
from backend.library.record import RECORD
from backend.storage import replace_file

FORMAT = 3  # of what is kept on the disk; another one is looked at anew
_AGAIN_S = 10.0  # a folder that is being copied here changes all the time
_CACHE_LIMIT = 4_000_000  # bytes
Examine = Callable[[Sequence[Path], Take], None]


@dataclass(frozen=True)
class Looked:
    """A model and what a look found; None while that is not known yet."""

    info: ModelInfo
    found: Condition | None


@dataclass
class _Kept:
    stamp: str
    found: Condition
    at: float = 0.0  # when it was looked at, monotonic


class Looker:
    """Lists a shelf quickly. ``kept`` is the file that findings are remembered in."""

    def __init__(self, models_dir: Path, kept: Path, *, examine: Examine = examine_all) -> None:
        self._models_dir, self._file, self._examine = models_dir, kept, examine
        self._infos: dict[str, tuple[str, ModelInfo]] = {}
        self._found: dict[str, _Kept] | None = None
        self._guard = threading.Lock()
        self._busy = threading.Lock()  # held by the one who looks

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the shelf, newest first, without looking into anything that was not looked into."""
        return tuple(info for info, _ in self._listed())

    def looked(self, *, look: bool = True, wait: bool = False) -> tuple[Looked, ...]:
        """Return the shelf with what is known of each folder. With ``look`` new ones are looked into meanwhile, with
        ``wait`` before this returns.
        """
        listed = self._listed()
        stale = [(info.folder, stamp) for info, stamp in listed if self._is_stale(info.name, stamp, now=wait)]
        wanted = stale if look or wait else []
        if wanted and wait:
            with self._busy:
                self._look(wanted)
        elif wanted and self._busy.acquire(blocking=False):
            threading.Thread(target=self._look_and_let_go, args=(wanted,), daemon=True, name="look").start()
        with self._guard:
            known = self._known()
            return tuple(Looked(info, known[info.name].found if info.name in known else None) for info, _ in listed)

    def forget(self, name: str) -> None:
        """Look into a folder anew at once: it was just changed."""
        with self._guard:
            self._known().pop(name, None)

    def _listed(self) -> list[tuple[ModelInfo, str]]:
        """Return every model with the stamp of what a look depends on."""
        found = []
        for folder in shelf_folders(self._models_dir):
            try:
                listing = list_folder(folder)
            except PermissionError:
                found.append((ModelInfo(folder.name, folder, 0, problem="library.unreadable"), ""))
                continue
            except OSError:  # gone
                continue
            stamp = listing.stamp() + str((folder / BEFORE).is_dir())
            known = self._infos.get(folder.name)
            info = known[1] if known and known[0] == stamp else describe(folder, listing)
            self._infos[folder.name] = (stamp, info)
            found.append((info, listing.stamp(without=(RECORD,))))
        return found

    def _is_stale(self, name: str, stamp: str, *, now: bool) -> bool:
        with self._guard:
            kept = self._known().get(name)
        if kept is None:
            return bool(stamp)
        return bool(stamp) and kept.stamp != stamp and (now or time.monotonic() - kept.at > _AGAIN_S)

    def _look_and_let_go(self, wanted: Sequence[tuple[Path, str]]) -> None:
        try:
            self._look(wanted)
        finally:
            self._busy.release()

    def _look(self, wanted: Sequence[tuple[Path, str]]) -> None:
        stamps = dict(wanted)

        def take(folder: Path, found: Condition | None) -> None:
            with self._guard:
                if found is None:
                    self._known().pop(folder.name, None)
                else:
                    self._known()[folder.name] = _Kept(stamps[folder], found, time.monotonic())

        self._examine([folder for folder, _ in wanted], take)
        self._save()

    def _known(self) -> dict[str, _Kept]:
        """Return what was found, read from the disk once. The guard is held."""
        if self._found is None:
            self._found = {}
            with contextlib.suppress(OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
                if self._file.stat().st_size <= _CACHE_LIMIT:
                    self._found = _from_json(json.loads(self._file.read_bytes()))
        return self._found

    def _save(self) -> None:
        """Remember the findings for the next run; a disk that refuses only costs another look."""
        here = {folder.name for folder in shelf_folders(self._models_dir)}
        with self._guard:
            known = self._known()
            for gone in set(known) - here:
                del known[gone]
            table = {name: {"stamp": kept.stamp, "found": kept.found.to_json()} for name, kept in known.items()}
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._file, json.dumps({"format": FORMAT, "found": table}).encode())


def _from_json(data: Mapping[str, Any]) -> dict[str, _Kept]:
    if data["format"] != FORMAT:
        return {}
    return {
        str(name): _Kept(str(one["stamp"]), Condition.from_json(one["found"])) for name, one in data["found"].items()
    }
