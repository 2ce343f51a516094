"""Downloads that are killed at random moments, over and over, until they are complete: nothing is lost or torn.

    python -m tests.bench.kill_sweep [--kills 200] [--rate 40MB/s] [--seed N]

Each download is fetched from the stand-in hub by a process that gets SIGKILL at a random moment; the next process goes
on. After every kill all files under final names are compared bit by bit. The last line is JSON; the exit code is 1 if
anything was lost or 2 % of the bytes were sent twice. What the hub sends after the kill, before it notices that nobody
is there any more (256 kB on each connection), is counted apart. The test suite runs a short form.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from backend.sources import store
from backend.sources.fetch import Options, fetch
from backend.sources.listing import Listing
from tests.backend.sources.downloads import NAME, listed
from tests.hub.content import Generated
from tests.hub.faults import amount
from tests.hub.server import Hub

_SIZES = (14_000_000, 12_000_000, 4_000_001)
_LONGEST_S = 120.0
_QUIET_S = 0.1  # after which the hub has noticed that a client is gone


@dataclass
class Tally:
    """What a sweep came to. ``torn`` files were wrong under their final names, ``left`` ones had no business there."""

    downloads: int = 0
    kills: int = 0
    identical: int = 0
    torn: int = 0
    left: int = 0
    bytes_payload: int = 0
    bytes_sent: int = 0
    bytes_to_nobody: int = 0
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Tell whether nothing was lost, torn or left."""
        return not (self.torn or self.left) and self.identical == self.downloads

    @property
    def twice(self) -> float:
        """The share of bytes that were sent more than once."""
        return (self.bytes_sent - self.bytes_to_nobody) / max(self.bytes_payload, 1) - 1


def _child(listing: dict[str, object], folder: str) -> None:
    options = Options(connections=4, retry_s=0.05, proxies={})
    for _ in fetch(Listing.from_json(listing), Path(folder), options=options, cancelled=lambda: False):
        pass


def _right(hub: Hub, listing: Listing, folder: Path) -> tuple[int, int]:
    """Return how many files are right under their final names, and how many are not."""
    files = hub.repositories[NAME].files(listing.revision)
    there = [path for path in folder.iterdir() if path.name in files] if folder.exists() else []
    good = sum(path.read_bytes() == files[path.name].read() for path in there)
    return good, len(there) - good


def sweep(kills: int, scratch: Path, *, rate: float, each: int = 1, seed: int = 0) -> Tally:
    """Kill so many times, ``each`` of them at most in one download; then it goes on until it is complete."""
    tally, dice, began = Tally(), random.Random(seed), time.monotonic()
    context = get_context("forkserver")
    context.set_forkserver_preload(["backend.sources.fetch", "tests.bench.kill_sweep", "pytest"])
    with Hub(rate=rate) as hub:
        while tally.kills < kills:
            hub.add(NAME, {f"model-{n}.safetensors": Generated(size, 10 * tally.downloads + n)
                           for n, size in enumerate(_SIZES)} | {"config.json": b"{}"})  # fmt: skip
            listing = listed(hub)
            folder = store.home(scratch, listing)
            whole_s, finished, before = listing.bytes / rate, False, tally.kills
            while not finished:
                process = context.Process(target=_child, args=(listing.to_json(), str(folder)))
                process.start()
                finished, unheard = _ended(
                    hub, process, dice.uniform(0.0, whole_s) if tally.kills < min(kills, before + each) else _LONGEST_S
                )
                tally.bytes_to_nobody += unheard
                tally.kills += process.exitcode == -signal.SIGKILL
                good, torn = _right(hub, listing, folder)
                tally.torn += torn
            tally.downloads += 1
            tally.identical += good == len(listing.files) and store.is_complete(folder, listing)
            tally.left += len(list(folder.iterdir())) - len(listing.files) - 1
            tally.bytes_payload += listing.bytes
            store.delete(scratch, folder)
        tally.bytes_sent = hub.sent()
    tally.seconds = round(time.monotonic() - began, 1)
    return tally


def _ended(hub: Hub, process: BaseProcess, after_s: float) -> tuple[bool, int]:
    """Kill a process after some time; return whether it had ended before that, and the bytes sent to it afterwards.

    Raises:
        RuntimeError: it failed.
    """
    process.join(after_s)
    sent, unheard = hub.sent(), 0
    if process.is_alive():
        process.kill()
        process.join()
        time.sleep(_QUIET_S)
        unheard = hub.sent() - sent
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the fetch ended with {process.exitcode}")
    return process.exitcode == 0, unheard


def main() -> int:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rate", type=amount, default=40_000_000, metavar="40MB/s")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tally = sweep(chosen.kills, Path(scratch), rate=chosen.rate, seed=chosen.seed)
    print(json.dumps({**asdict(tally), "sent_twice": round(tally.twice, 4)}))
    return 0 if tally.is_good and tally.twice < 0.02 else 1


if __name__ == "__main__":
    sys.exit(main())
