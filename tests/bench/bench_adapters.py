"""What attached LoRAs cost: processor time a token with none, one and two of them, on both engines, side by side.

    nice python -m tests.bench.bench_adapters [--rank 16] [--rounds 3]

The model has 77 million random weights, the adapters change every linear layer. Processor time on one thread says the
same on a busy machine as on a quiet one; rounds go through all cases in turn, and the middle of their ratios counts.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from backend.engines.base import ChatMessage, EngineOptions, Lora, Sampling
from backend.engines.generator import Readiness
from backend.engines.llamacpp_server import loading as llama
from backend.engines.transformers_server import loading as transformers
from backend.weights.shape import ModelShape
from tests.backend.engines import tiny
from tests.backend.engines.loras import LAYERS, write_adapter

CASES = ((), ("ada",), ("ada", "bob"))
TOKENS = 16


def shape() -> ModelShape:
    """Return the dimensions of a model whose layers take most of the time."""
    vocab = tiny.tokenizer().get_vocab_size()
    return ModelShape(
        hidden=1024, layers=6, heads=16, kv_heads=16, head_dim=64, ffn=2816, vocab=vocab, norm_eps=1e-5,
        max_positions=512,
    )  # fmt: skip


def weights(_: int = 0) -> dict[str, np.ndarray]:
    """Return random weights."""
    random = np.random.default_rng(0)
    return {
        name: (
            random.standard_normal(size, np.float32) * np.float32(0.02) if "norm" not in name else np.ones(size, "f4")
        )
        for name, size in shape().expected()
    }


async def cost(generator: Any, names: tuple[str, ...]) -> float:
    """Return the processor's seconds for one more token."""
    found = []
    for tokens in (1, TOKENS + 1):
        sampling = Sampling(temperature=0.0, max_new_tokens=tokens, loras=tuple((name, 1.0) for name in names))
        prompt = generator.prepare([ChatMessage("user", "hello")], sampling)
        began = time.process_time()
        async for _ in generator.generate(prompt, sampling):
            pass
        found.append(time.process_time() - began)
    return (found[1] - found[0]) / TOKENS


def measure(generator: Any, rounds: int) -> str:
    """Return tokens a second of processor time without adapters, and the share that is left with one and two."""
    seconds = [[asyncio.run(cost(generator, names)) for names in CASES] for _ in range(rounds + 1)][1:]
    plain = statistics.median(one[0] for one in seconds)
    shares = [statistics.median(one[0] / one[number] for one in seconds) for number in (1, 2)]
    return f"{1 / plain:6.1f} tokens/s; with one {shares[0]:.0%}, with two {shares[1]:.0%}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as place,
        patch.object(tiny, "shape", shape),
        patch.object(tiny, "weights", weights),
        patch.object(llama, "threads", lambda *_: 1),
    ):
        folder = tiny.write_model(Path(place) / "model")
        loras = tuple(
            Lora(str(write_adapter(Path(place) / name, seed=seed, rank=args.rank, targets=LAYERS)))
            for seed, name in enumerate(("ada", "bob"))
        )
        on_torch = EngineOptions("transformers", "cpu", loras=loras)
        ways = (
            ("transformers float32", transformers.load, replace(on_torch, dtype="float32")),
            ("transformers bfloat16", transformers.load, replace(on_torch, dtype="bfloat16")),
            ("llama.cpp F16", llama.load, EngineOptions("llamacpp", loras=loras)),
            ("llama.cpp Q4_K", llama.load, EngineOptions("llamacpp", bits=4, loras=loras)),
        )
        for name, load, options in ways:
            generator = load(Readiness(folder, options))
            print(f"{name:24}{measure(generator, args.rounds)}", flush=True)
            generator.close()
    os._exit(0)  # threads of libraries may still run


if __name__ == "__main__":
    main()
