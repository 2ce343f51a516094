"""Jobs whose worker fails or dies at its N-th call of fsync, rename, write, unlink: exact points, by strace.

    python -m tests.bench.call_sweep [--calls fsync,rename] [--faults KILL,EIO,ENOSPC] [--every 1]

A worker runs under strace, which lets the N-th such call of each of its threads fail, or kills it there, for N = 1, 2,
3 and so on until nothing happens any more. A job that failed must have said so in words; then it is resumed without
strace and must end bit-identical, with nothing half under a final name and nothing left. The last line is JSON; the
exit code is 1 if that was not so once. Needs strace; the test suite runs a few points.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from backend.jobs.manager import JobManager
from backend.jobs.view import JobState
from backend.plan import Plan
from tests.backend.jobs.traced_worker import INJECT, MODULE
from tests.backend.jobs.warm_worker import Tune, WarmWorkers
from tests.backend.jobs.whole import House, leftovers, sums
from tests.bench.job_sweep import BASE, NAME, publish_family
from tests.hub.server import Hub

# What a call is named by strace: libc may use either for one of Python's functions.
CALLS = {
    "fsync": "fsync",
    "rename": "rename,renameat,renameat2",
    "write": "write,pwrite64",
    "unlink": "unlink,unlinkat",
    "openat": "openat",
}
FAULTS = ("KILL", "EIO", "ENOSPC")
_MOST = 400
_MISSES = 3  # points in a row at which nothing happened: there are no more


@dataclass(frozen=True)
class Point:
    """The ``number``-th call fails with an error, or is where the process is killed."""

    call: str
    number: int
    fault: str

    @property
    def inject(self) -> str:
        """The point as strace's -e inject wants it."""
        what = "signal=SIGKILL" if self.fault == "KILL" else f"error={self.fault}"
        return f"{CALLS[self.call]}:{what}:when={self.number}"


@dataclass
class Tally:
    """What came of it. ``landed``: the run did not simply go on. ``wrong`` says what was not as it should be."""

    points: int = 0
    landed: int = 0
    identical: int = 0
    wrong: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Tell whether nothing was lost."""
        return not self.wrong and not self.unsaid and self.identical == self.points


def why_not() -> str:
    """Return why this cannot be done here; nothing if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return f"strace may not trace here: {tried.stderr.strip()[:200]}" if tried.returncode else ""


def sweep_calls(points: Iterable[Point], scratch: Path) -> Tally:
    """Go through points, skipping those of a kind that came to its end."""
    tally, began, misses = Tally(), time.monotonic(), dict[tuple[str, str], int]()
    with Hub() as hub, WarmWorkers(scratch) as warm:
        size = publish_family(hub, scratch / "sources", layers=1, hidden=128)
        tune = Tune(shard_bytes=size // 3)
        first = House(scratch / "first", hub.url, warm=warm, tune=tune)
        plan = first.plan(NAME, BASE)
        assert first.ended(first.jobs.start(plan)).state is JobState.DONE
        reference = sums(first.models / NAME)
        for point in points:
            kind = point.call, point.fault
            if misses.get(kind, 0) >= _MISSES:
                continue
            house = House(scratch / "data", hub.url, warm=warm, tune=tune)
            landed = _one(house, plan, point, tune, reference, tally)
            print(f"{point.inject}: {'resumed' if landed else 'not reached'}", file=sys.stderr)
            misses[kind] = 0 if landed else misses.get(kind, 0) + 1
            shutil.rmtree(house.data_dir, ignore_errors=True)
    tally.seconds = round(time.monotonic() - began, 1)
    return tally


def _one(house: House, plan: Plan, point: Point, tune: Tune, reference: dict[str, str], tally: Tally) -> bool:
    """Run one job through one point and to its end; tell whether the point was there."""
    environment = {**house.access.to_environment(), **tune.to_environment(), INJECT: point.inject}
    traced = JobManager(house.data_dir, worker=MODULE, environment=environment)
    job = traced.start(plan)
    view = house.ended(job)
    landed = view.state is not JobState.DONE
    tally.points, tally.landed = tally.points + 1, tally.landed + landed
    shown = f"{point.call} {point.number} {point.fault}"
    if landed:
        if list(house.models.glob("[!.]*")) and sums(house.models / NAME) != reference:
            tally.wrong.append(f"{shown}: half a model")
        if point.fault != "KILL" and (view.state is not JobState.FAILED or view.error is None):
            tally.unsaid.append(f"{shown}: {view.state}")
        elif view.error is not None and view.error.key == "error.unexpected":
            tally.unsaid.append(f"{shown}: {view.error.text()[:200]}")
        view = house.resume(job)
    if view.state is not JobState.DONE:
        tally.wrong.append(f"{shown}: {house.told(view)[:500]}")
    elif sums(house.models / NAME) != reference:
        tally.wrong.append(f"{shown}: other bytes")
    elif left := leftovers(house, NAME):
        tally.wrong.append(f"{shown}: left {left}")
    else:
        tally.identical += 1
    return landed


def all_points(calls: Iterable[str], faults: Iterable[str], every: int) -> Iterator[Point]:
    """Yield the points of the long form, until ``sweep_calls`` finds no more of a kind."""
    for call in calls:
        for fault in faults:
            yield from (Point(call, number, fault) for number in range(1, _MOST, every))


def main() -> int:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", default="fsync,rename,unlink")
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--every", type=int, default=1, help="only every N-th point")
    chosen = parser.parse_args()
    if reason := why_not():
        print(reason)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        tally = sweep_calls(all_points(chosen.calls.split(","), chosen.faults.split(","), chosen.every), Path(scratch))
    print(json.dumps(asdict(tally)))
    return 0 if tally.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
