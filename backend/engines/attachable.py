"""Which adapters on this machine can be attached to a model: those on the shelf and those that were downloaded.

Holding one against a model opens files that nobody vouches for, so a child does it; what it said is kept as long as the
folders stay as they are. Knows nothing about pages, or how an adapter is computed with.
"""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.engines.base import Lora
from backend.library.listing import Listing, list_folder
from backend.library.models import ADAPTER, WEIGHTS, shelf_folders
from backend.settings import ROOT
from backend.sources.store import list_downloads

LIMIT_S = 60.0  # for all of them; one takes some hundredths of a second
_LOG = logging.getLogger("cria.engines")
Hold = Callable[[Path, Sequence[Path]], Mapping[Path, bool] | None]


@dataclass(frozen=True)
class Offer:
    """An adapter that could be attached. ``bytes`` are of its weights."""

    folder: Path
    bytes: int

    @property
    def name(self) -> str:
        """What people call it."""
        return Lora(str(self.folder)).name


def hold(model: Path, adapters: Sequence[Path], *, limit_s: float = LIMIT_S) -> dict[Path, bool] | None:
    """Return adapter -> whether it can be attached to a model; those that a child did not get to are not there. None
    where there is no child.
    """
    wanted = json.dumps({"model": str(model), "adapters": [str(one) for one in adapters]})
    command = [sys.executable, "-m", "backend.engines.attachable_child"]
    try:
        done = subprocess.run(
            command, input=wanted, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False
        )
        said = done.stdout
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
    except (OSError, ValueError) as problem:  # no process to be had, or a name that holds half a character
        _LOG.warning("no adapter could be held against %s: %s", model.name, problem)
        return None
    answers = said.split("\n")[:-1]
    return {adapter: answer == "true" for adapter, answer in zip(adapters, answers, strict=False)}


class Attachables:
    """The adapters of one data folder. Safe to use from any thread."""

    def __init__(self, models_dir: Path, downloads_dir: Path, *, hold: Hold = hold) -> None:
        self._models_dir, self._downloads_dir, self._hold = models_dir, downloads_dir, hold
        self._guard = threading.Lock()
        self._known: dict[tuple[str, str], dict[tuple[Path, str], bool]] = {}  # model -> adapter -> it fits

    def fitting(self, model: Path) -> tuple[Offer, ...]:
        """Return the adapters that fit a model, by name; takes a second where one was never held against it.

        Raises:
            OSError: the model is gone.
        """
        here = dict(self._here())
        stamps = {(folder, listing.stamp()): folder for folder, listing in here.items()}
        with self._guard:  # one child at a time
            known = self._known.setdefault((str(model), list_folder(model).stamp()), {})
            new = [stamp for stamp in stamps if stamp not in known]
            said = self._hold(model, [folder for folder, _ in new]) if new else None
            if said is not None:
                known.update({stamp: said[stamp[0]] for stamp in new if stamp[0] in said})
                culprit = next((stamp for stamp in new if stamp not in known), None)
                if culprit is not None:  # the child was at it when it died or was late; the next have their turn later
                    known[culprit] = False
            found = [stamps[stamp] for stamp in stamps if known.get(stamp)]
        offers = [Offer(folder, here[folder].size(WEIGHTS)) for folder in found]
        return tuple(sorted(offers, key=lambda one: (one.name, one.folder)))

    def _here(self) -> Iterator[tuple[Path, Listing]]:
        """Yield every folder with an adapter, whatever it belongs to."""
        fetched = (one.folder for one in list_downloads(self._downloads_dir) if one.is_complete)
        for folder in (*shelf_folders(self._models_dir), *fetched):
            try:
                listing = list_folder(folder)
            except OSError:  # it went away, or may not be read
                continue
            if listing.has(ADAPTER) and str(folder).isprintable():
                yield folder.resolve(), listing
