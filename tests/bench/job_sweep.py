"""Whole set-ups that are killed at random moments, over and over, until the model is on the shelf: nothing is lost.

    python -m tests.bench.job_sweep [--kills 200] [--each 4] [--rate 60MB/s] [--seed N] [--no-keep-sources]

Each job downloads a base in Meta's layout and a delta from the stand-in hub, adds them into several files, finishes,
verifies and publishes. Its worker gets SIGKILL at a moment that is drawn: half of them anywhere in the job, half within
one step, so that short steps get their share; then it is resumed, as a person would. While it runs and after every kill
all that has a final name is compared by its sha256. With ``--no-keep-sources`` base and delta have four files each, and
each goes as soon as nothing needs it; the model must be the one that comes out when everything is kept. The last line
is JSON; the exit code is 1 if anything was lost, torn or left, or 2 % of the bytes were sent twice. What the hub sends
after a kill, before it notices that nobody is there any more, is counted apart. The test suite runs a short form.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from backend.jobs.journal import JournalReader
from backend.jobs.manager import JOURNAL
from backend.jobs.view import JobState
from backend.plan import Plan
from backend.settings import ASSETS
from tests.backend.jobs.warm_worker import Tune, WarmWorkers
from tests.backend.jobs.whole import House, leftovers, sums
from tests.backend.weights.make import Tiny, weights, write_hf, write_meta
from tests.hub.faults import amount
from tests.hub.repository import folder_files
from tests.hub.server import Hub

NAME, BASE, DELTA = "swept", "cria/base", "cria/delta"
ANYWHERE, PUBLISH = "anywhere", "publish"
_PUBLISH_S = 0.06  # what comes after the last step
_QUIET_S = 0.1  # after which the hub has noticed that a client is gone
_LOOK_S = 0.002
_SHARDS = 4
_SENT_TWICE, _LOOKED_TWICE = 0.02, 0.06  # so small models are mostly what is looked at first, and that comes anew


@dataclass
class Tally:
    """What a sweep came to. ``torn`` had a final name and not the right bytes, ``left`` had no business there."""

    jobs: int = 0
    kills: int = 0
    killed_in: dict[str, int] = field(default_factory=dict)
    identical: int = 0
    torn: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    bytes_payload: int = 0
    bytes_sent: int = 0
    bytes_to_nobody: int = 0
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Tell whether nothing was lost, torn or left."""
        return not (self.torn or self.left or self.failed) and self.identical == self.jobs

    @property
    def twice(self) -> float:
        """The share of bytes that were sent more than once."""
        return (self.bytes_sent - self.bytes_to_nobody) / max(self.bytes_payload, 1) - 1


def publish_family(hub: Hub, folder: Path, *, layers: int, hidden: int = 512, keep: bool = True) -> int:
    """Serve a random base of two Meta shards and a delta of two files; return the bytes of one of them, about.

    Else than to ``keep``, both have four files: so that there is something to remove early.
    """
    tiny = Tiny(hidden=hidden, layers=layers, heads=8, kv_heads=8, vocab=2400)
    tokenizer = (ASSETS / "demo" / "base" / "tokenizer.model").read_bytes()
    if keep:
        write_meta(folder / "base", tiny, weights(tiny, 1), shards=2)
    else:
        write_hf(folder / "base", tiny, weights(tiny, 1), shards=4)
    write_hf(folder / "delta", tiny, weights(tiny, 2, scale=0.01, norm=0.0), kind="bin", shards=2 if keep else 4)
    for name, member in ((BASE, "base"), (DELTA, "delta")):
        (folder / member / "tokenizer.model").write_bytes(tokenizer)
        hub.add(name, folder_files(folder / member))
    return sum(path.stat().st_size for path in (folder / "delta").iterdir())


@dataclass
class Reference:
    """An undisturbed run: the files that come out, and the seconds that each step takes."""

    sums: dict[str, str]
    seconds: dict[str, float]

    @staticmethod
    def of(house: House, plan: Plan) -> "Reference":
        job = house.jobs.start(plan)
        view = house.ended(job)
        if view.state is not JobState.DONE:
            raise RuntimeError(house.told(view))
        seconds = {step.id: step.seconds for step in view.steps}
        return Reference(
            sums(house.models / plan.name), {**seconds, PUBLISH: _PUBLISH_S, ANYWHERE: view.seconds + _PUBLISH_S}
        )

    def moment(self, dice: random.Random) -> tuple[str, float]:
        """Draw when to kill: so many seconds after a step began, or after the worker did."""
        step = dice.choice([name for name in self.seconds if name != ANYWHERE])
        step = dice.choice([ANYWHERE, step])
        return step, dice.uniform(0.0, self.seconds[step])


class Witness(threading.Thread):
    """Looks at all final names of a data folder while a job runs; ``torn`` are those whose bytes were not right."""

    def __init__(self, house: House, hub: Hub, reference: Reference) -> None:
        super().__init__()
        self._house, self._hub, self._reference = house, hub, reference
        self._seen, self._over, self.torn = set[Path](), threading.Event(), list[str]()

    def run(self) -> None:
        while not self._over.wait(_LOOK_S):
            with contextlib.suppress(FileNotFoundError):  # a folder got its final name while it was looked into
                self._look()

    def stop(self) -> None:
        """Look at everything a last time, the old too."""
        self._over.set()
        self.join()
        self.look_again()

    def look_again(self) -> None:
        """Look at what was seen before, too."""
        self._seen.clear()
        self._look()

    def _look(self) -> None:
        for path in self._house.models.glob("[!.]*"):
            if path not in self._seen:
                self._judge(path, sums(path) == self._reference.sums)
        for path in self._house.models.glob(".partial-*/*.safetensors"):
            if path not in self._seen:
                self._judge(path, _sha256(path) in (self._reference.sums.get(path.name), None))
        for path in self._house.downloads.glob("*/*/*/[!.]*"):
            if path not in self._seen:
                repository = self._hub.repositories[path.parent.parent.name.replace("--", "/")]
                content = repository.files(path.parent.name)[path.name]
                self._judge(path, _sha256(path) in (content.sha256, None))

    def _judge(self, path: Path, is_right: bool) -> None:
        self._seen.add(path)
        if not is_right and path.exists():
            self.torn.append(str(path.relative_to(self._house.data_dir)))


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:  # the folder was given its name meanwhile
        return None


def kill_at(journal: JournalReader, step: str, delay_s: float, *, last: str) -> str | None:
    """Kill a worker some time after it began a step; return what it was doing, None if it ended before.

    ``last`` is the step after which the model is published.
    """
    pid, doing, due = 0, "", None
    while not (pid and _is_gone(pid)):
        for event in journal.new_lines():
            if event["e"] == "run":
                pid, doing = event["pid"], ANYWHERE
            elif event["e"] == "step":
                doing = event["id"]
            elif event["e"] == "step_done" and event["id"] == last:
                doing = PUBLISH
            if doing == step and due is None:
                due = time.monotonic() + delay_s
        if pid and due is not None and time.monotonic() >= due:
            os.kill(pid, signal.SIGKILL)
            return doing
        time.sleep(_LOOK_S)
    return None


def _is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def sweep(
    kills: int, scratch: Path, *, rate: float, each: int = 4, layers: int = 2, seed: int = 0, keep: bool = True
) -> Tally:
    """Kill so many times, ``each`` of them at most in one job; then it goes on until it is done."""
    tally, dice, began = Tally(), random.Random(seed), time.monotonic()
    with Hub(rate=rate) as hub, WarmWorkers(scratch) as warm:
        size = publish_family(hub, scratch / "sources", layers=layers, keep=keep)
        tune = Tune(shard_bytes=size // _SHARDS, peeks=not keep)
        first = House(scratch / "first", hub.url, warm=warm, tune=tune)
        plan = first.plan(NAME, BASE, DELTA)
        reference = Reference.of(first, plan)
        if sum(name.endswith(".safetensors") for name in reference.sums) < _SHARDS:
            raise RuntimeError("the shards are not small enough for the sweep to mean much")
        shutil.rmtree(first.data_dir)
        plan = replace(plan, keep_sources=keep)
        hub.mend()
        while tally.kills < kills:
            house = House(scratch / "data", hub.url, warm=warm, tune=tune)
            _one(house, plan, hub, reference, tally, dice, most=min(kills - tally.kills, each))
            shutil.rmtree(house.data_dir)
            print(f"{tally.kills} kills, {tally.identical} of {tally.jobs} identical", file=sys.stderr)
        tally.bytes_sent = hub.sent()
    tally.bytes_payload = tally.jobs * plan.download_bytes
    tally.seconds = round(time.monotonic() - began, 1)
    return tally


def _one(
    house: House, plan: Plan, hub: Hub, reference: Reference, tally: Tally, dice: random.Random, *, most: int
) -> None:
    """Run one job to its end through up to ``most`` kills."""
    job, before = house.jobs.start(plan), tally.kills
    journal = JournalReader(house.data_dir / "jobs" / job / JOURNAL)
    witness = Witness(house, hub, reference)
    witness.start()
    try:
        while tally.kills < before + most:
            place = kill_at(journal, *reference.moment(dice), last=plan.steps[-1].id)
            sent = hub.sent()
            view = house.ended(job)
            if place is not None:
                tally.kills += 1
                tally.killed_in[place] = tally.killed_in.get(place, 0) + 1
                time.sleep(_QUIET_S)
                tally.bytes_to_nobody += hub.sent() - sent
                witness.look_again()
            if view.state is JobState.DONE:
                break
            house.jobs.resume(job)
        view = house.ended(job)
    finally:
        witness.stop()
    tally.jobs += 1
    tally.torn += witness.torn
    if view.state is not JobState.DONE:
        tally.failed.append(house.told(view))
        return
    tally.identical += sums(house.models / plan.name) == reference.sums
    tally.left += leftovers(house, plan.name)
    if not plan.keep_sources:
        tally.left += [str(path) for path in house.downloads.glob("*/*/*")]


def main() -> int:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--each", type=int, default=4, help="kills in one job at most")
    parser.add_argument("--layers", type=int, default=3, help="6 MB each, in the base and in the delta")
    parser.add_argument("--rate", type=amount, default=60_000_000, metavar="60MB/s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-keep-sources", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tally = sweep(
            chosen.kills,
            Path(scratch),
            rate=chosen.rate,
            each=chosen.each,
            layers=chosen.layers,
            seed=chosen.seed,
            keep=not chosen.no_keep_sources,
        )
    print(json.dumps({**asdict(tally), "sent_twice": round(tally.twice, 4)}))
    most = _LOOKED_TWICE if chosen.no_keep_sources else _SENT_TWICE
    return 0 if tally.is_good and tally.twice < most else 1


if __name__ == "__main__":
    sys.exit(main())
