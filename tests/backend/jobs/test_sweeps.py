"""Whole jobs, killed again and again, and at exact calls: always the same model in the end, nothing half, nothing left.

The long forms: ``python -m tests.bench.job_sweep`` and ``python -m tests.bench.call_sweep``; see docs/reliability.md.
"""

from pathlib import Path

import pytest

from tests.bench.call_sweep import Point, sweep_calls, why_not
from tests.bench.job_sweep import sweep


@pytest.mark.parametrize(("keep", "kills"), [(True, 12), (False, 8)])
def test_kills_of_whole_jobs_lose_nothing(tmp_path: Path, keep: bool, kills: int) -> None:
    layers = 1 if keep else 3  # of a smaller model too much has to be remembered for files to be removed
    tally = sweep(kills, tmp_path, rate=60e6, each=6, layers=layers, seed=5, keep=keep)
    assert tally.is_good, tally
    assert tally.kills == kills
    assert tally.killed_in  # in which steps, the machine's load decides


# One of each kind that matters most: the journal's and a shard's sync, names given, bytes written.
FEW = (
    Point("fsync", 3, "KILL"),
    Point("fsync", 9, "EIO"),
    Point("rename", 2, "KILL"),
    Point("rename", 5, "ENOSPC"),
    Point("write", 25, "ENOSPC"),
)


def test_faults_at_exact_calls_lose_nothing(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    tally = sweep_calls(FEW, tmp_path)
    assert tally.is_good, tally
    assert tally.landed >= 2
