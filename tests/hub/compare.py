"""The same faults for huggingface_hub's snapshot_download and for Cria's own fetch: ``python -m tests.hub.compare``.

Prints the table of docs/downloads.md. Each case has a hub and a folder of its own; a call that fails is made once more,
as a person would do. ``--speed`` compares throughput instead.
"""

import argparse
import filecmp
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.hub.clients import CRIA, HUB, LOCAL_DIR, start
from tests.hub.content import Content, Generated, Literal
from tests.hub.faults import parse
from tests.hub.server import Hub

REPOSITORY = "cria/model"
WEIGHTS = "*pytorch_model-00001*"
BIG, SMALL, CONFIG = 40_000_000, 8_000_000, 700
_LATE = "wait=1.5 method=* kind=head,link times=0"  # else who comes second finds the first one's lock
_LIMIT_S = 40.0
_RESUMED = "cut at=25MB path=*pytorch_model-00001*"
_CLUTTER = 1_000_000  # bytes left behind that are worth mentioning


@dataclass(frozen=True)
class Case:
    """One row. ``kills`` are bytes sent after which the client is killed; ``clients`` run at once on one folder."""

    name: str
    faults: tuple[str, ...] = ()
    kills: tuple[int, ...] = ()
    clients: int = 1
    mode: str = HUB
    rate: float = 0.0


def on(fault: str) -> str:
    """Return a rule for the large file's bytes."""
    return f"{fault} path={WEIGHTS}"


CASES = (
    Case("nothing"),
    Case("cut at 25 of 40 MB, once", (on("cut at=25MB"),)),
    Case("reset at 25 of 40 MB, once", (on("reset at=25MB"),)),
    Case("connection dropped: model info, once", ("drop kind=info",)),
    Case("connection dropped: start of the file, once", (on("drop kind=file"),)),
    Case("silence at 25 of 40 MB, once", (on("stall at=25MB"),)),
    Case("drip of 100 B/s, once", (on("slow=100B/s"),)),
    Case("408, once", (on("status=408 kind=file"),)),
    Case("429 with Retry-After: 1, once", (on("status=429 retry-after=1 kind=file"),)),
    Case("429 with a date in Retry-After, once", (on("status=429 retry-after=date:1 kind=file"),)),
    Case("500 on the file, once", (on("status=500 kind=file"),)),
    Case("503 on the file, three times", (on("status=503 kind=file times=3"),)),
    Case("503 on model info, once", ("status=503 kind=info",)),
    Case("503 on the tree, once", ("status=503 kind=tree",)),
    Case("503 on model info, always; folder not empty", ("status=503 kind=info times=0",), mode=LOCAL_DIR),
    Case("416 when it goes on", (_RESUMED, on("status=416 kind=file at=25MB first=2"))),
    Case("link of the CDN expired (403) when it goes on", (_RESUMED, on("status=403 kind=file at=25MB first=2"))),
    Case("range ignored (200) when it goes on", (_RESUMED, on("ignore-range at=25MB first=2"))),
    Case("206 with another start than asked", (_RESUMED, on("wrong-range=start at=25MB first=2"))),
    Case("other bytes, same ETag, when it goes on", (_RESUMED, on("other at=25MB first=2"))),
    Case("other bytes, new ETag, when it goes on", (_RESUMED, on("changed at=25MB first=2 times=2"))),
    Case("one byte flipped, once", (on("flip at=12345678"),)),
    Case("one byte flipped, always", (on("flip at=12345678 times=0"),)),
    Case("one byte of a small file flipped, once", ("flip at=5 path=*config.json",)),
    Case("HTML page of the right length, once", (on("html=right"),)),
    Case("HTML page of its own length, once", (on("html=wrong"),)),
    Case("HTML page in place of model info, once", ("html=wrong kind=info",)),
    Case("Content-Length 1000 too large, once", (on("length=1000"),)),
    Case("Content-Length 1000 too small, once", (on("length=-1000"),)),
    Case("no length, body cut, once", (on("no-length at=25MB"),)),
    Case("body 1000 bytes longer, once", (on("longer=1000"),)),
    Case("gzip though not asked for, once", (on("gzip"),)),
    Case("redirect loop, once", (on("redirect=loop times=30"),)),
    Case("redirect to other bytes of the same length, once", (on("redirect=/files/other.bin kind=file"),)),
    Case("gate closes under way (403), once", ("gated=403 method=* kind=head,link",)),
    Case("revision moves under way", ("move kind=tree",)),
    Case("two SIGKILLs", kills=(20_000_000, 35_000_000), rate=25e6),
    Case("two at once", (_LATE,), clients=2, rate=6e6),
    Case("two at once, one plain folder", (_LATE,), clients=2, rate=6e6, mode=LOCAL_DIR),
)


@dataclass(frozen=True)
class Outcome:
    """How a client did: in words, and bytes sent of the bytes there are."""

    words: str
    sent: float


def files() -> dict[str, Content]:
    """Return the repository that every case serves."""
    return {
        "config.json": Literal(b"{" + b" " * (CONFIG - 2) + b"}"),
        "pytorch_model-00001-of-00002.bin": Generated(BIG, 1),
        "pytorch_model-00002-of-00002.bin": Generated(SMALL, 2),
    }


def run(case: Case, who: str, served: Mapping[str, Content]) -> Outcome:
    """Let one client meet one case."""
    payload = sum(content.size for content in served.values())
    with tempfile.TemporaryDirectory() as name, Hub(rate=case.rate) as hub:
        folder = Path(name)
        hub.add(REPOSITORY, served)
        hub.serve("other.bin", Generated(BIG, 3))
        if who == LOCAL_DIR:
            (folder / "out").mkdir()
            (folder / "out" / "notes.txt").write_text("mine")
        hub.rules += [parse(rule) for rule in case.faults]
        for kill in case.kills:
            _kill_at(hub, who, folder, kill)
        words = _call(case, hub, who, folder, served)
        if not words.startswith("**") and words != "correct":
            again = _call(case, hub, who, folder, served)
            words = f"fails ({words}); the 2nd call: {again}"
        surplus = _held(folder) - payload
        if surplus > _CLUTTER and "correct" in words:
            words += f", leaves {surplus / 1e6:.0f} MB behind"
        if not all(rule.happened for rule in hub.rules):
            words += " (without meeting it)"
        return Outcome(words, hub.sent() / payload)


def _kill_at(hub: Hub, who: str, folder: Path, count: int) -> None:
    client = start(who, hub.url, REPOSITORY, folder)
    while hub.sent() < count and client.poll() is None:
        time.sleep(0.005)
    client.kill()
    client.communicate()


def _call(case: Case, hub: Hub, who: str, folder: Path, served: Mapping[str, Content]) -> str:
    """Call the client, or several at once, and say how the worst of them did."""
    clients = []
    for _ in range(case.clients):
        clients.append(start(who, hub.url, REPOSITORY, folder))
        time.sleep(0.3 if case.clients > 1 else 0)
    until, verdicts = time.monotonic() + _LIMIT_S, []
    for client in clients:
        while client.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        late = client.poll() is None
        client.kill()
        said = client.communicate()[0]
        verdicts.append(f"still waiting after {_LIMIT_S:.0f} s" if late else _verdict(json.loads(said), served, folder))
    return next((verdict for verdict in verdicts if verdict != "correct"), "correct")


def _verdict(said: Mapping[str, str], served: Mapping[str, Content], folder: Path) -> str:
    if "error" in said:
        return said["error"]
    place, true = Path(said["folder"]), folder / "true"
    missing = [name for name in served if not (place / name).is_file()]
    if missing:
        return f"**success with {len(served) - len(missing)} of {len(served)} files**"
    for name, content in served.items():
        content.write(true)
        same = filecmp.cmp(place / name, true, shallow=False)
        true.unlink()
        if not same:
            return "**wrong bytes accepted**"
    return "correct"


def _held(folder: Path) -> int:
    """Return the bytes of all files below a folder, each once."""
    return sum({info.st_ino: info.st_size for path in folder.rglob("*") if (info := path.lstat())}.values())


def table(names: str, workers: int) -> None:
    """Print the table, a row as soon as it is known."""
    served = files()
    for content in served.values():
        _ = content.sha256, content.git_sha1  # once, before threads ask for it
    cases = [case for case in CASES if names in case.name]
    print("| Fault | snapshot_download | sent | Cria | sent |\n| --- | --- | ---: | --- | ---: |")
    with ThreadPoolExecutor(workers) as pool:
        rows = [[pool.submit(run, case, who, served) for who in (case.mode, CRIA)] for case in cases]
        for case, row in zip(cases, rows, strict=True):
            cells = (f"{cell.result().words} | {cell.result().sent:.2f}" for cell in row)
            print(f"| {case.name} | {' | '.join(cells)} |", flush=True)


def speed(count: int, size: int) -> None:
    """Print seconds, rate and memory of both for some large files without any fault."""
    served = {f"pytorch_model-{number:05d}.bin": Generated(size, number) for number in range(count)}
    for content in served.values():
        _ = content.sha256
    print("| Client | seconds | MB/s | peak memory, MB |\n| --- | ---: | ---: | ---: |")
    for who in (HUB, CRIA, HUB, CRIA):
        with tempfile.TemporaryDirectory() as name, Hub() as hub:
            hub.add(REPOSITORY, served)
            begun = time.monotonic()
            said = json.loads(start(who, hub.url, REPOSITORY, Path(name)).communicate()[0])
            seconds = time.monotonic() - begun
        cells = f"{seconds:.1f} | {count * size / seconds / 1e6:.0f} | {said['peak'] / 1e6:.0f}"
        print(f"| {said.get('error', who)} | {cells} |", flush=True)


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub.compare")
    parser.add_argument("--only", default="", metavar="WORDS", help="cases whose name has these words")
    parser.add_argument("--workers", type=int, default=3, help="cases at once")
    parser.add_argument("--speed", action="store_true", help="4 files of 500 MB, no faults")
    given = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, huggingface_hub {importlib.metadata.version('huggingface_hub')}\n")
    if given.speed:
        speed(4, 500_000_000)
    else:
        table(given.only, given.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
