"""What the tests of whole jobs share: a data folder with its manager and a hub, and what came out, by sums.

Everything is looked at from outside: jobs are started by a ``JobManager``, run in real processes, and what counts is
which bytes lie where. Knows nothing about how a job does its work.
"""

import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from backend.jobs.manager import JobManager
from backend.jobs.view import JobState, JobView
from backend.plan import Plan, make_plan
from backend.recipes import custom_recipe
from backend.sources.access import Access
from backend.sources.pinned import find_source
from tests.backend.jobs.warm_worker import HELD, Tune, WarmWorkers

USUAL = Tune()
_PATIENCE_S = 60.0
_DATED = ("made", "seconds")  # what may differ in cria.json from one run to the next


class House:
    """A data folder and how its jobs run. ``warm`` None: the real worker, started as the app starts it."""

    def __init__(
        self,
        data_dir: Path,
        hub: str | None,
        *,
        warm: WarmWorkers | None = None,
        tune: Tune = USUAL,
        access: Access | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.access = access or Access(hubs=(hub,) if hub else (), modelscope=None)
        environment = {**self.access.to_environment(), **tune.to_environment()}
        # Where no worker is named, the real one runs; it knows nothing of ``tune``.
        worker = {"worker": warm.module, "environment": environment | warm.environment} if warm else {}
        self.jobs = JobManager(data_dir, **({"environment": environment} | worker))  # type: ignore[arg-type]

    @property
    def models(self) -> Path:
        return self.data_dir / "models"

    @property
    def downloads(self) -> Path:
        return self.data_dir / "downloads"

    def plan(self, name: str, base: str, delta: str | None = None, *loras: str, dtype: str | None = None) -> Plan:
        """Ask the hub and lay a job out, without a self-test."""
        recipe = custom_recipe(name, base=base, delta=delta, loras=loras, dtype=dtype)
        find = partial(find_source, access=self.access)
        return make_plan(recipe, self_test=False, find=find, downloads=self.downloads)

    def start(self, name: str, base: str, delta: str | None = None, *loras: str, dtype: str | None = None) -> str:
        """Start a job without a self-test; return its id."""
        return self.jobs.start(self.plan(name, base, delta, *loras, dtype=dtype))

    def wait(self, job: str, until: Callable[[JobView], bool], *, patience_s: float = _PATIENCE_S) -> JobView:
        """Return a job's view once something is true of it.

        Raises:
            TimeoutError: it never was.
        """
        deadline = time.monotonic() + patience_s
        while not until(view := self.jobs.view(job)):
            if time.monotonic() > deadline:
                raise TimeoutError(view)
            time.sleep(0.005)
        return view

    def ended(self, job: str) -> JobView:
        """Return a job's view once nobody works on it any more."""
        return self.wait(job, lambda view: view.state not in (JobState.RUNNING, JobState.QUEUED))

    def held(self, job: str) -> JobView:
        """Return a job's view once its worker stands still, as ``Tune.hold_in`` says."""
        marker = self.data_dir.parent / HELD
        found = self.wait(job, lambda view: marker.exists() or view.state is not JobState.RUNNING)
        marker.unlink()
        return found

    def make(self, name: str, base: str, delta: str | None = None, *loras: str, dtype: str | None = None) -> Path:
        """Run a job to its end; return the folder of its model."""
        view = self.ended(self.start(name, base, delta, *loras, dtype=dtype))
        assert view.state is JobState.DONE, self.told(view)
        return self.models / name

    def resume(self, job: str) -> JobView:
        """Resume a job; return its view once it ended."""
        self.jobs.resume(job)
        return self.ended(job)

    def told(self, view: JobView) -> str:
        """Return what is known of a job that did not end as it should."""
        log = self.data_dir / "jobs" / view.id / "worker.log"
        return f"{view.state} {view.error}\n{log.read_text(encoding='utf-8') if log.exists() else ''}"


def sums(folder: Path) -> dict[str, str]:
    """Return name -> sha256 of every file of a model folder; of cria.json without what a clock decides."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(
                _undated(data) if path.name == "cria.json" else data
            ).hexdigest()
    return found


def _undated(data: bytes) -> bytes:
    table = json.loads(data)
    return json.dumps({key: value for key, value in table.items() if key not in _DATED}, sort_keys=True).encode()


def leftovers(house: House, *models: str) -> list[str]:
    """Return what lies in a data folder without being a model, a complete download, or a job's record."""
    found = [path for path in house.models.iterdir() if path.name not in models]
    for path in house.models.rglob("*"):
        found += [path] if path.name.startswith(".") or path.suffix in (".part", ".new") else []
    for path in house.downloads.rglob("*") if house.downloads.exists() else ():
        odd = path.suffix in (".part", ".new", ".journal") or (
            path.name.startswith(".") and path.name != ".manifest.json"
        )
        found += [path] if odd else []
    return sorted({str(path.relative_to(house.data_dir)) for path in found})


def secret_places(data_dir: Path, secret: str) -> list[str]:
    """Return the files of a data folder, and the command lines on this machine, that have a secret in them."""
    found, needle = [], secret.encode()
    for path in [*data_dir.rglob("*"), *Path("/proc").glob("[0-9]*/cmdline")]:
        try:
            if path.is_file() and needle in path.read_bytes():
                found.append(str(path))
        except OSError:  # a process that ended
            continue
    return found
