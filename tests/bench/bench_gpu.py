"""How fast the transformers engine is on a GPU: a random model of LLaMA 7B's shape, 6.7 billion weights.

    python -m tests.bench.bench_gpu [--folder DIR] [--only bf16 ...]
    python -m tests.bench.bench_gpu --device cpu --small      tries the benchmark itself, where there is no GPU

Loads the model in 16, 8 and 4 bits, each in its own process through the same supervisor and HTTP as the app; 8 and 4
bits once from the model's files, keeping the result, and once from what was kept. Of each: seconds and bytes of loading
beside what the disk gives when nothing of the file is in memory; the first token after loading and the one after that,
which tells whether more warming up would pay; prefill; decode of 1, 4 and 16 streams; memory. Beside the decode of one
stream stands its share of the bound: weights read for a token over the bandwidth measured on that device. Asserts
nothing: whoever has the card reads the table.

The aims: one stream in bfloat16 at 60 % of the bound; 16 streams at 8 times one.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend import hardware
from backend.dimensions import dimensions_from_config
from backend.engines.base import EngineOptions
from backend.engines.supervisor import Supervisor
from backend.fit.need import need_of
from backend.fit.speeds import memory_rate
from tests.bench.bench_engines import _ask
from tests.bench.engine_model import SEVEN, SMALL, write_model

WAYS: Mapping[str, EngineOptions] = {
    "bf16": EngineOptions("transformers", dtype="bfloat16"),
    "8-bit": EngineOptions("transformers", bits=8, dtype="bfloat16", keep_quantised=True),
    "8-bit kept": EngineOptions("transformers", bits=8, dtype="bfloat16"),
    "4-bit": EngineOptions("transformers", bits=4, dtype="bfloat16", keep_quantised=True),
    "4-bit kept": EngineOptions("transformers", bits=4, dtype="bfloat16"),
}
PREFILL, SHORT, NEW, STREAMS = 1024, 16, 128, (1, 4, 16)
_COPIED, _COPIES = 1 << 30, 10
_READ = 16_000_000
_READY_S = 1800.0


def _copy_rate(queue: Any) -> None:
    """Put bytes a second that the GPU moves: a copy reads and writes each."""
    import torch

    one = torch.ones(_COPIED, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(one)
    best = 0.0
    for _ in range(_COPIES):
        torch.cuda.synchronize()
        began = time.perf_counter()
        other.copy_(one)
        torch.cuda.synchronize()
        best = max(best, 2 * _COPIED / (time.perf_counter() - began))
    queue.put(best)


def bandwidth(device: str) -> float:
    """Return bytes a second of the device's memory; in a process of its own, which leaves nothing on the GPU."""
    if device == "cpu":
        return memory_rate() or 1.0
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_copy_rate, args=(queue,))
    process.start()
    found: float = queue.get()
    process.join()
    return found


def forget(folder: Path) -> int:
    """Let the system forget what it holds of a folder's large files, where it can; return their bytes."""
    total = 0
    for path in folder.rglob("*.safetensors"):
        total += path.stat().st_size
        if hasattr(os, "posix_fadvise"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return total


def disk_rate(path: Path) -> float:
    """Return bytes a second that a file is read at, once."""
    part, began = bytearray(_READ), time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(part):
            pass
    return path.stat().st_size / (time.perf_counter() - began)


def measure(engine: Supervisor, folder: Path, options: EngineOptions, bound: float) -> dict[str, float]:
    """Load in one way and return its figures; ``bound``: tokens a second if nothing but weights had to be moved."""
    forget(folder)
    began = time.perf_counter()
    engine.load(folder, options)
    engine.wait_ready(_READY_S)
    load = time.perf_counter() - began
    first, second, prefill = (asyncio.run(_ask(engine, tokens, 1, seed))[-1][1].usage
                              for seed, tokens in enumerate((SHORT, SHORT, PREFILL)))  # fmt: skip
    assert first
    assert second
    assert prefill
    found = {
        "load s": round(load, 1),
        "read MB": round(engine.status().loaded_bytes / 1e6),
        "first token ms": round(1000 * first.first_token_s),
        "second ms": round(1000 * second.first_token_s),
        "prefill tok/s": round(prefill.prompt_tokens / prefill.first_token_s),
    }
    for streams in STREAMS:
        found[f"{streams} tok/s"] = round(_rate(asyncio.run(_together(engine, streams))), 1)
    status = engine.status()
    engine.unload()
    return found | {
        "% of bound": round(100 * found["1 tok/s"] / bound, 1),
        "16 / 1": round(found["16 tok/s"] / found["1 tok/s"], 2),
        "GPU MB": round(status.gpu_memory_bytes / 1e6),
        "RAM MB": round(status.memory_bytes / 1e6),
    }


def _rate(replies: list[Any]) -> float:
    """Return tokens a second of all replies together, from the first token of any to the last of all."""
    told = [[at for at, piece in reply if piece.tokens] for reply in replies]
    made = sum(reply[-1][1].tokens - 1 for reply in replies)
    return made / (max(times[-1] for times in told) - min(times[0] for times in told))


async def _together(engine: Supervisor, streams: int) -> list[Any]:
    return await asyncio.gather(*(_ask(engine, SHORT, NEW, 10 * streams + each) for each in range(streams)))


def main() -> None:
    """Print a line for each way, and one JSON line of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="where to put the model: 14 GB, and 12 for what is kept")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS))
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs, tempfile.TemporaryDirectory(dir=told.folder) as place:
        engine = Supervisor(Path(logs))
        if told.device == "cuda" and not hardware.probe(Path(logs)).gpus:
            sys.exit("There is no GPU here: nothing to measure. --device cpu --small tries the benchmark itself.")
        folder = write_model(Path(place) / "model", SMALL if told.small else SEVEN)
        forget(folder)
        rates = {"disk": disk_rate(folder / "model.safetensors"), "memory": bandwidth(told.device)}
        print(json.dumps({f"{name} GB/s": round(rate / 1e9, 2) for name, rate in rates.items()}), flush=True)
        rows = {}
        for name in told.only:
            options = replace(WAYS[name], device=told.device)
            rows[name] = measure(engine, folder, options, rates["memory"] / _read_for_a_token(folder, options.bits))
            print(f"{name:12}", json.dumps(rows[name]), flush=True)
        engine.close()
    print(json.dumps({"rates": rates, "ways": rows}))


def _read_for_a_token(folder: Path, bits: int) -> int:
    size = dimensions_from_config(json.loads((folder / "config.json").read_text()))
    assert size is not None
    return need_of(size).weights(bits, "bfloat16") - size.vocab * size.hidden * 2  # of the table of words, one row


if __name__ == "__main__":
    main()
