"""The most disk that a set-up takes, promised and real: ``python -m tests.bench.lean --size 400MB --rate 60MB/s``.

A random model and a delta come from the stand-in hub in a few files each; once everything is kept, and once each file
goes when nothing needs it any more. A thread adds up all blocks of the data folder, again and again.
"""

import argparse
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from backend.plan import disk
from backend.sources.access import Access
from backend.storage import disk_bytes
from tests.backend.jobs.warm_worker import Tune, WarmWorkers
from tests.backend.jobs.whole import House, sums
from tests.hub import family
from tests.hub.faults import amount
from tests.hub.server import Hub

_LOOK_S = 0.005
_FILES = 4


@dataclass(frozen=True)
class HighWater:
    """Bytes: promised by the plan, seen at the most, left in the end. ``sums`` are those of the model's files."""

    promised: int
    seen: int
    left: int
    seconds: float
    sums: dict[str, str]


class Gauge(threading.Thread):
    """Looks how much a folder takes until it is stopped; ``most`` is the largest that it saw."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self._over, self.most = folder, threading.Event(), 0

    def run(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.most = max(self.most, disk_bytes(self._folder))

    def stop(self) -> None:
        self._over.set()
        self.join()


def measure(folder: Path, hub: Hub, warm: WarmWorkers, *, size: int, rate: float | None, keep: bool) -> HighWater:
    """Run one job against a hub that has ``cria/base`` and ``cria/delta``."""
    access = Access(hubs=(hub.url,), modelscope=None, rate=rate)
    tune = Tune(window_s=20.0, patience_s=60.0, shard_bytes=size // _FILES)
    house = House(folder, hub.url, warm=warm, tune=tune, access=access)
    with mock.patch.object(disk, "SHARD_BYTES", size // _FILES):
        plan = replace(house.plan("made", "cria/base", "cria/delta"), keep_sources=keep)
    gauge = Gauge(folder)
    gauge.start()
    try:
        view = house.ended(house.jobs.start(plan))
    finally:
        gauge.stop()
    if view.error is not None:
        raise view.error
    return HighWater(plan.needed_disk, gauge.most, disk_bytes(folder), view.seconds, sums(house.models / "made"))


def both(scratch: Path, warm: WarmWorkers, *, size: int, rate: float | None) -> tuple[HighWater, HighWater]:
    """Measure a job that keeps its sources, and one that does not."""
    with mock.patch.object(family, "_SHARD", size // _FILES), Hub() as hub:
        hub.add("cria/base", family.random_model(size))
        hub.add("cria/delta", family.random_model(size, is_delta=True))
        kept, lean = (
            measure(scratch / name, hub, warm, size=size, rate=rate, keep=name == "kept") for name in ("kept", "lean")
        )
    return kept, lean


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=amount, default=400_000_000, help="of the base, and of the delta")
    parser.add_argument("--rate", type=amount, default=60_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, WarmWorkers(Path(folder)) as warm:
        measured = both(Path(folder), warm, size=given.size, rate=given.rate)
        for name, found in zip(("kept", "lean"), measured, strict=True):
            print(f"{name}: promised {found.promised / 1e6:.1f} MB, seen {found.seen / 1e6:.1f} MB,"
                  f" left {found.left / 1e6:.1f} MB, {found.seconds:.1f} s")  # fmt: skip


if __name__ == "__main__":
    main()
