"""How fast the engines answer on a CPU, side by side: a random model of TinyLlama's shape, 1.1 billion weights.

    python -m tests.bench.bench_engines [--rounds N] [--folder DIR] [--only llamacpp-8 ...]

Converts the model for llama.cpp (seconds, MB of weights a second, peak memory), then in every round loads each engine
in its own process, through the same supervisor and HTTP as the app, and measures: load time, prefill of 512 tokens,
decode of one request and of four together (while all four decode), and resident memory. Before and after each decode
memory is read as fast as it goes, so that the share of the bound, weights read per token over bandwidth, is of one
moment. Rates are the best of a few tries, ratios the medians of what was measured within seconds. Only the ratios of
one round mean something: neighbours change from minute to minute. Asserts no times.

The aims: decode at 90 % of the bound; four requests together at least 1.5 times one.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.engines.base import ChatMessage, EngineOptions, Piece, Sampling
from backend.engines.choice import KIND_OF_BITS
from backend.engines.folder import open_folder
from backend.engines.llamacpp_server.store import make_gguf
from backend.engines.supervisor import Supervisor
from backend.fit.speeds import memory_rate
from tests.bench.engine_model import prompt, write_model

WAYS: Mapping[str, EngineOptions] = {
    **{f"llamacpp-{bits}": EngineOptions("llamacpp", bits=bits) for bits in (16, 8, 4)},
    "transformers-float32": EngineOptions("transformers", "cpu", dtype="float32"),
    "transformers-bfloat16": EngineOptions("transformers", "cpu", dtype="bfloat16"),
}
PREFILL, SHORT, NEW, TOGETHER = 512, 16, 64, 4
TURNS = 5  # per load
_READY_S = 600.0


def convert(folder: Path, kind: str) -> dict[str, float]:
    """Make the GGUF file in a process of its own; return seconds, MB a second and peak MB."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_convert, args=(folder, kind, queue))
    process.start()
    found: dict[str, float] = queue.get()
    process.join()
    return found


def _convert(folder: Path, kind: str, queue: Any) -> None:
    opened, began = open_folder(folder), time.perf_counter()
    make_gguf(opened, kind, lambda progress: None)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    queue.put({"s": round(seconds, 1), "MB/s": round(opened.checkpoint.nbytes / seconds / 1e6), "peak MB": round(peak)})


async def _ask(engine: Supervisor, tokens: int, new: int, seed: int) -> list[tuple[float, Piece]]:
    sampling = Sampling(temperature=0.0, max_new_tokens=new)
    messages = [ChatMessage("user", prompt(tokens, seed))]
    return [(time.perf_counter(), piece) async for piece in engine.chat(messages, sampling)]


def _rate(replies: list[list[tuple[float, Piece]]]) -> float:
    """Return tokens a second of all replies together, from the moment that all have begun until the first ends."""
    begins = max(next(at for at, piece in reply if piece.tokens) for reply in replies)
    ends = min(reply[-1][0] for reply in replies)
    made = 0
    for reply in replies:
        within = [piece.tokens for at, piece in reply if begins <= at <= ends]
        made += within[-1] - within[0]
    return made / (ends - begins)


def measure(engine: Supervisor, folder: Path, options: EngineOptions, weights: int) -> dict[str, float]:
    """Load one engine and return its figures; ``weights``: bytes read for one token."""
    began = time.perf_counter()
    engine.load(folder, options)
    engine.wait_ready(_READY_S)
    load = time.perf_counter() - began
    asyncio.run(_ask(engine, SHORT, 4, 0))
    read = [asyncio.run(_ask(engine, PREFILL, 1, 1 + turn))[-1][1].usage for turn in range(2)]
    ones, fours, reads = [], [], [memory_rate() or 0.0]

    async def together(seed: int) -> list[list[tuple[float, Piece]]]:
        return await asyncio.gather(*(_ask(engine, SHORT, NEW, seed + each) for each in range(TOGETHER)))

    for turn in range(TURNS):
        ones.append(_rate([asyncio.run(_ask(engine, SHORT, NEW, 10 + turn))]))
        reads.append(memory_rate() or 0.0)
        fours.append(_rate(asyncio.run(together(100 + 10 * turn))))
        reads.append(memory_rate() or 0.0)
    memory = engine.status().memory_bytes
    engine.unload()
    # One alone lies between the readings 2n and 2n + 1, four together come after.
    shares = [one * weights / statistics.mean(reads[2 * turn :][:2]) for turn, one in enumerate(ones)]
    return {
        "load s": round(load, 1),
        "prefill tok/s": round(max(one.prompt_tokens / one.first_token_s for one in read if one), 1),
        "decode tok/s": round(max(ones), 2),
        "GB/s": round(statistics.median(reads) / 1e9, 1),
        "% of bound": round(100 * statistics.median(shares)),
        "four tok/s": round(max(fours), 2),
        "four / one": round(statistics.median(four / one for four, one in zip(fours, ones, strict=True)), 2),
        "MB": round(memory / 1e6),
    }


def weights_read(folder: Path, options: EngineOptions) -> int:
    """Return the bytes of weights that one token needs: all but the table of words."""
    checkpoint = open_folder(folder).checkpoint
    if options.engine == "llamacpp":
        size = make_gguf(open_folder(folder), KIND_OF_BITS[options.bits], lambda progress: None).stat().st_size
    else:
        size = checkpoint.parameters * (4 if options.dtype == "float32" else 2)
    words = checkpoint["model.embed_tokens.weight"]
    return int(size * (1 - words.nbytes / checkpoint.nbytes))


def main() -> None:
    """Print a table, and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS))
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=told.folder) as place:
        folder = write_model(Path(place) / "model")
        converted = {kind: convert(folder, kind) for kind in KIND_OF_BITS.values()}
        print(json.dumps(converted), flush=True)
        engine = Supervisor(Path(place) / "logs")
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in told.only}
        for _ in range(told.rounds):
            for name in told.only:
                found = measure(engine, folder, WAYS[name], weights_read(folder, WAYS[name]))
                rows[name].append(found)
                print(f"{name:24}", json.dumps(found), flush=True)
        engine.close()
    medians = {
        name: {key: round(statistics.median(row[key] for row in found), 2) for key in found[0]}
        for name, found in rows.items()
    }
    print(json.dumps({"converted": converted, "medians": medians}))


if __name__ == "__main__":
    main()
