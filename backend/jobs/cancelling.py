"""Cancelling a job: it stops, and what it made and fetched is removed. Pausing, the manager's, keeps everything.

What was there before the job began, and downloads that another job needs or was told to keep, stay. Knows nothing about
pages.
"""

import time
from pathlib import Path

from backend.errors import JobError
from backend.jobs.lean import REMOVED
from backend.jobs.manager import JobManager, partial_folder
from backend.jobs.stock import needed_by_others
from backend.jobs.view import JobState
from backend.sources import store
from backend.sources.ledger import Ledger, is_ledger
from backend.storage import disk_bytes

_STOPPING_S = 30.0  # a slab is computed, a file synced
_LOOK_S = 0.1


def cancel(jobs: JobManager, data_dir: Path, job: str) -> int:
    """Stop a job if it runs, remove it and what it made and fetched; return the bytes freed. A finished model stays.

    Raises:
        JobError: there is none of that id, or it does not stop.
        MachineError: the disk refuses.
    """
    view, deadline = jobs.view(job), time.monotonic() + _STOPPING_S
    if view.state.is_active:
        jobs.pause(job)
    while (view := jobs.view(job)).state.is_active:
        if time.monotonic() > deadline:
            raise JobError("job.running", job=job)
        time.sleep(_LOOK_S)
    freed = view.leftover_bytes
    if view.state is not JobState.DONE:
        freed += _remove_fetched(jobs, data_dir, job)
    jobs.delete(job)
    return freed


def _remove_fetched(jobs: JobManager, data_dir: Path, job: str) -> int:
    downloads, folder = data_dir / "downloads", partial_folder(data_dir / "models", job) / REMOVED
    if not is_ledger(folder):  # it never began, or nothing is known of what was here before
        return 0
    ledger, freed = Ledger(folder, downloads), 0
    others = needed_by_others(jobs, downloads, but=job)
    for remote in jobs.plan(job).remotes:
        place = remote.folder(downloads)
        if place in others:
            continue
        before = disk_bytes(place)
        store.remove_files(place, [file.name for file in remote.listing.files if ledger.is_own(place / file.name)])
        freed += before - disk_bytes(place)
    return freed
