"""How fast the network was, from the journals of downloads that are over. Knows nothing about the network itself."""

from itertools import pairwise
from pathlib import Path

from backend.errors import JobError
from backend.jobs.journal import JournalReader
from backend.jobs.manager import JOURNAL, JobManager
from backend.jobs.view import JobState
from backend.plan import FETCH

_LEAST_BYTES, _LEAST_S = 20_000_000, 2.0  # less says little
_JOBS = 10  # the newest ones that are looked at


def network_rate(jobs: JobManager, jobs_dir: Path) -> float | None:
    """Return the bytes a second of the last download long enough to tell; None where there was none."""
    for job in jobs.views()[:_JOBS]:
        if job.state is JobState.RUNNING:
            continue
        try:
            if not jobs.plan(job.id).download_bytes:
                continue
        except JobError:
            continue
        seconds, count = _moved(jobs_dir / job.id / JOURNAL)
        if seconds >= _LEAST_S and count >= _LEAST_BYTES:
            return count / seconds
    return None


def _moved(journal: Path) -> tuple[float, int]:
    """Return seconds and bytes of a download, whatever was there already left out: a new run begins anew."""
    lines = [line for line in JournalReader(journal).new_lines() if line["e"] == "progress" and line.get("id") == FETCH]
    marks = [(float(line.get("m") or 0), int(line.get("done") or 0)) for line in lines]
    seconds, count = 0.0, 0
    for (then, before), (now, after) in pairwise(marks):
        if now > then and after >= before:
            seconds, count = seconds + (now - then), count + (after - before)
    return seconds, count
