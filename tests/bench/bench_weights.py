"""How fast weights are converted and merged, and in how much memory, beside copying the same bytes.

    python -m tests.bench.bench_weights [--size 0.5|3|13.5] [--rounds N] [--shards N] [--folder DIR] [--keep]

Makes a random model of LLaMA-7B's widths (13.5 GB: the real 7B), a delta and a LoRA of rank 64 on all linear layers,
then times in turn, each in a fresh process and from a cold page cache: ``cp`` and sync, conversion, ``cat`` of the
delta and ``cp`` of the base, conversion with the delta, ``cp`` again, conversion with the LoRA. Every output is durable
and hashed, and checked. Only the ratios of one round mean something: disks and neighbours change from minute to minute.
The host of a virtual machine may cache too, which nothing here can empty. Needs 3 times the size on the disk. Asserts
no times.

The aims: at most 1.2 times the yardstick, 1.5 with the LoRA; 200, 450 and 600 MB of memory whatever the size.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from backend.settings import ROOT
from backend.weights.partial import hash_file
from tests.bench.weights_models import (
    ALPHA,
    BASE,
    DELTA,
    LORA,
    RANK,
    SIZES,
    Half,
    Numbers,
    Shape,
    lora_names,
    make_base,
    make_delta,
    make_lora,
    model_shape,
)

PARTS: Mapping[str, tuple[str, ...]] = {"convert": (), "delta": (DELTA,), "lora": (LORA,)}
AIMS = {"convert": (1.2, 200), "delta": (1.2, 450), "lora": (1.5, 600)}  # times the yardstick, MB
_SAMPLE = 64  # rows


@dataclass(frozen=True)
class Run:
    """What one command took, in seconds; ``said`` is what a job printed about itself."""

    wall: float
    cpu: float
    said: Mapping[str, Any]


def timed(command: list[str]) -> Run:
    """Run a command; the clock runs from before its process exists until after it is gone."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    wall, after = time.time() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = json.loads(done.stdout) if done.stdout else {}
    if said:
        said["start_s"] = said.pop("began") - began
    return Run(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, said)


def files(folder: Path) -> Iterator[Path]:
    """Yield the files of a model."""
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def make_cold(*folders: Path) -> None:
    """Take files out of the page cache; that needs no rights, only that nothing of them is still to be written."""
    for path in (path for folder in folders for path in files(folder)):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def yardstick(job: str, models: Path, out: Path) -> Run:
    """Read and write the bytes of a job with nothing but ``cat`` and ``cp``, durably."""
    out.mkdir()
    copy = 'cp "$1"/*.pth "$2" && sync "$2"/*'
    command = f'cat "$3"/*.safetensors > /dev/null && {copy}' if job == DELTA else copy
    return timed(["sh", "-c", command, "sh", str(models / BASE), str(out), str(models / DELTA)])


def run_job(job: str, models: Path, out: Path) -> Run:
    """Run one job of the pipeline."""
    parts = [word for part in PARTS[job] for word in (f"--{part}", str(models / part))]
    return timed([sys.executable, "-m", "tests.bench.weights_job", str(out), str(models / BASE), *parts])


def check(job: str, out: Path, size: str, numbers: Numbers) -> None:
    """Compare sampled rows of a result with what they must be."""
    for path in out.glob("*.safetensors"):
        with safe_open(path, "numpy") as found:
            for name, full in model_shape(size).expected():
                if name in found.keys():  # noqa: SIM118 - not a mapping
                    _check_tensor(job, found.get_slice(name), name, full, numbers)


def _check_tensor(job: str, found: Any, name: str, full: Shape, numbers: Numbers) -> None:
    for start in {0, full[0] // 2 // _SAMPLE * _SAMPLE, full[0] - _SAMPLE}:
        stop = start + _SAMPLE
        wanted = _hf_rows(name, full, numbers, start=start, stop=stop)
        got = found[start:stop]
        if job == "delta":
            wanted = wanted + numbers.rows(DELTA, name, full, start=start, stop=stop)
        if job == "lora" and "_proj" in name:
            exact = wanted.astype(np.float64) + ALPHA / RANK * _product(name, full, numbers, start=start, stop=stop)
            good = np.abs(got - exact) <= 0.501 * np.spacing(np.abs(exact).astype(np.float16)) + 1e-7
        else:
            good = got == wanted
        if not good.all():
            raise SystemExit(f"{job}: {name}, rows {start} to {stop}: {good.size - good.sum()} numbers are wrong")


def _hf_rows(name: str, full: Shape, numbers: Numbers, *, start: int, stop: int) -> Half:
    """Return rows of the converted base: row (h, s * 64 + j) of q and k is Meta's row (h, 2 * j + s)."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return numbers.rows(BASE, name, full, start=start, stop=stop)
    first, last = start // 128 * 128, -(-stop // 128) * 128
    rows = numbers.rows(BASE, name, full, start=first, stop=last)
    order = [head + 2 * j + s for head in range(0, last - first, 128) for s in (0, 1) for j in range(64)]
    return rows[order[start - first : stop - first]]


def _product(
    name: str, full: Shape, numbers: Numbers, *, start: int, stop: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    up_name, down_name = lora_names(name)
    up = numbers.rows(LORA, up_name, (full[0], RANK), start=start, stop=stop)
    down = numbers.rows(LORA, down_name, (RANK, full[1]), start=0, stop=RANK)
    return up.astype(np.float64) @ down.astype(np.float64)


def make_models(folder: Path, size: str, shards: int, numbers: Numbers) -> None:
    """Make what is not there yet; a part that was being made when somebody stopped it is made again."""
    makers = {
        BASE: lambda place: make_base(place, size, numbers, shards=shards),
        DELTA: lambda place: make_delta(place, size, numbers),
        LORA: lambda place: make_lora(place, size, numbers),
    }
    for part, make in makers.items():
        if not (folder / part).exists():
            growing = folder / f"{part}.part"
            shutil.rmtree(growing, ignore_errors=True)
            make(growing)
            growing.rename(folder / part)


def measure(
    models: Path, size: str, rounds: int, jobs: list[str], numbers: Numbers
) -> dict[str, list[tuple[Run, Run]]]:
    """Run every job and its yardstick beside it, ``rounds`` times."""
    found: dict[str, list[tuple[Run, Run]]] = {job: [] for job in jobs}
    out = models / "out"
    for number in range(rounds):
        for job in jobs:
            pair = []
            for run in (yardstick, run_job):
                shutil.rmtree(out, ignore_errors=True)
                make_cold(models)
                pair.append(run(job, models, out))
            check(job, out, size, numbers)
            if number == 0 and {path.name: hash_file(path) for path in out.glob("model*")} != pair[1].said["sha256"]:
                raise SystemExit(f"{job}: the files are not the ones whose hashes were noted")
            found[job].append((pair[0], pair[1]))
            walls = f"yardstick {pair[0].wall:6.2f} s  job {pair[1].wall:6.2f} s"
            print(f"  round {number + 1} {job:8} {walls} {pair[1].said['peak'] / 1e6:5.0f} MB", file=sys.stderr)
    shutil.rmtree(out, ignore_errors=True)
    return found


def figures_of(pairs: list[tuple[Run, Run]]) -> dict[str, float]:
    """Return the medians of one job's rounds; the ratio is the median of the rounds' own ratios."""
    middle = statistics.median
    ratios = [run.wall / stick.wall for stick, run in pairs]
    return {
        "yardstick_s": round(middle(stick.wall for stick, _ in pairs), 2),
        "wall_s": round(middle(run.wall for _, run in pairs), 2),
        "start_s": round(middle(run.said["start_s"] for _, run in pairs), 2),
        "open_s": round(middle(run.said["open_s"] for _, run in pairs), 2),
        "cpu_s": round(middle(run.cpu for _, run in pairs), 2),
        "peak_mb": round(max(run.said["peak"] for _, run in pairs) / 1e6),
        "ratio": round(middle(ratios), 2),
        "ratio_low": round(min(ratios), 2),
        "ratio_high": round(max(ratios), 2),
    }


def main() -> None:
    """Make the models, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="0.5", help="GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=1, help="files of the base")
    parser.add_argument("--jobs", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; models found there are used again")
    parser.add_argument("--keep", action="store_true", help="leave the models there")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="bench-weights-"))
    models = folder / f"weights-{asked.size}-{asked.shards}"
    models.mkdir(parents=True, exist_ok=True)
    try:
        numbers = Numbers()
        make_models(models, asked.size, asked.shards, numbers)
        load = os.getloadavg()[0]
        found = measure(models, asked.size, asked.rounds, asked.jobs, numbers)
    finally:
        if not asked.keep:
            shutil.rmtree(models if asked.folder else folder)
    table = {job: figures_of(pairs) for job, pairs in found.items()}
    print(f"{'job':8}" + "".join(f"{name:>12}" for name in table[asked.jobs[0]]) + f"{'aim':>16}")
    for job, row in table.items():
        print(f"{job:8}" + "".join(f"{value:>12}" for value in row.values()) + "{:>8} x {} MB".format(*AIMS[job]))
    head = {"bench": "weights", "size_gb": float(asked.size), "shards": asked.shards, "rounds": asked.rounds}
    print(json.dumps(head | {"load_before": round(load, 2), "cpus": os.cpu_count(), "jobs": table}))


if __name__ == "__main__":
    main()
