"""How soon after the last byte a base plus a delta is a finished folder: ``python -m tests.bench.joint --rate 30MB/s``.

A random model and a delta come from the stand-in hub in shards a fifth of their size, at a limited rate; output files
are as large, or with ``--outputs 1`` there is only one. Prints these times, and the last as a share of the first.
"""

import argparse
import json
import tempfile
from pathlib import Path
from unittest import mock

from backend.sources.access import Access
from tests.backend.jobs.warm_worker import Tune, WarmWorkers
from tests.backend.jobs.whole import House
from tests.hub import family
from tests.hub.faults import amount
from tests.hub.server import Hub


def measure(folder: Path, size: int, rate: float, *, outputs: int = 5) -> tuple[float, float, float]:
    """Return the seconds of the download, from its end to that of merging, and to the finished and checked folder."""
    with mock.patch.object(family, "_SHARD", size // 5), Hub() as hub, WarmWorkers(folder) as warm:
        hub.add("cria/base", family.random_model(size))
        hub.add("cria/delta", family.random_model(size, is_delta=True))
        access = Access(hubs=(hub.url,), modelscope=None, rate=rate)
        tune = Tune(window_s=20.0, patience_s=60.0, shard_bytes=size // outputs if outputs > 1 else 0)
        house = House(folder / "data", hub.url, warm=warm, tune=tune, access=access)
        job = house.start("made", "cria/base", "cria/delta")
        view = house.ended(job)
        if view.error is not None:
            raise view.error
        lines = (folder / "data" / "jobs" / job / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    coming = [event for event in events if event["e"] == "progress" and event["id"] == "fetch"]
    last = next(event["m"] for event in coming if event["done"] == event["total"])
    merged = next(event["m"] for event in events if event["e"] == "step_done" and event["id"] == "merge")
    return last - coming[0]["m"], merged - last, max(event.get("m", 0.0) for event in events) - last


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=amount, default=300_000_000, help="of the base, and of the delta")
    parser.add_argument("--rate", type=amount, default=30_000_000)
    parser.add_argument("--outputs", type=int, default=5, help="files of the result")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        download, merged, rest = measure(Path(folder), given.size, given.rate, outputs=given.outputs)
    print(f"download {download:.1f} s, merged {merged:.1f} s and finished {rest:.1f} s after its last byte:"
          f" {100 * rest / download:.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
