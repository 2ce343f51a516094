"""LoRAs for the tiny model, and what a merge makes of them: the truth that attaching is held against."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backend.engines.base import ChatMessage, Sampling
from backend.engines.generator import Generator
from backend.weights.lora import add_lora
from backend.weights.opening import open_checkpoint
from backend.weights.writer import save
from tests.backend.engines import tiny

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GREEDY = {"temperature": 0.0, "max_new_tokens": 24}
Strengths = Sequence[tuple[Path, float]]


def write_adapter(
    folder: Path,
    *,
    seed: int = 1,
    rank: int = 4,
    targets: Sequence[str] = LAYERS,
    extra: dict[str, np.ndarray] | None = None,
    **config: object,
) -> Path:
    """Write an adapter on the layers whose names contain one of ``targets``; ``extra`` tensors come besides."""
    random, arrays = np.random.default_rng(seed), dict[str, np.ndarray]()

    def some(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.15).astype(np.float32)

    for name, (rows, *columns) in tiny.shape().expected():
        if any(target in name for target in targets):
            stem = "base_model.model." + name.removesuffix(".weight")
            arrays[f"{stem}.lora_A.weight"], arrays[f"{stem}.lora_B.weight"] = some(rank, *columns), some(rows, rank)
    folder.mkdir(parents=True)
    tiny.write_safetensors(folder / "adapter_model.safetensors", arrays | (extra or {}))
    table = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "bias": "none", "target_modules": list(targets)}
    (folder / "adapter_config.json").write_text(json.dumps(table | config))
    return folder


def write_table_adapter(folder: Path, *, rank: int = 4) -> Path:
    """Write an adapter of the word table, and of one layer."""
    random, size = np.random.default_rng(9), tiny.shape()
    stem = "base_model.model.model.embed_tokens.lora_embedding_"
    tables = {
        f"{stem}A": random.standard_normal((rank, size.vocab)).astype(np.float32),
        f"{stem}B": (random.standard_normal((size.hidden, rank)) * 0.3).astype(np.float32),
    }
    return write_adapter(folder, targets=("down_proj",), rank=rank, extra=tables)


def merged(base: Path, folder: Path, loras: Strengths) -> Path:
    """Return a model folder with adapters merged into it, one after the other."""
    checkpoint = open_checkpoint(base)
    for adapter, scale in loras:
        checkpoint = add_lora(checkpoint, adapter, scale=scale)
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "gguf"))
    weights = folder / "weights"
    list(save(checkpoint, weights))
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    shutil.rmtree(weights)
    return folder


def mix(**scales: float) -> Sampling:
    """Return greedy answers with a mixture of adapters; without any, the base's."""
    return Sampling(**GREEDY, loras=tuple(scales.items()))  # type: ignore[arg-type]


async def reply(generator: Generator, question: str, sampling: Sampling) -> str:
    """Return one whole reply."""
    prompt = generator.prepare([ChatMessage("user", question)], sampling)
    return "".join([step.text async for step in generator.generate(prompt, sampling)])
