"""LoRAs for the tiny model, and what a merge makes of them: the truth that attaching is held against."""

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
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
Truth = dict[tuple[int, str], str]  # what a merge answers, by number of the mixture and question


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


def three_adapters(place: Path) -> dict[str, Path]:
    """Return adapters by name: of every layer; rank-stabilised and of the last layer; of the word table."""
    return {
        "ada": write_adapter(place / "ada"),
        "bob": write_adapter(place / "bob", seed=2, rank=8, targets=("q_proj", "lm_head"), use_rslora=True),
        "words": write_table_adapter(place / "words"),
    }


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


def answers(folders: Sequence[Path], questions: Sequence[str], load: Callable[[Path], Generator]) -> Truth:
    """Return what each model answers to each question; no two of them the same."""
    found: Truth = {}
    for number, folder in enumerate(folders):
        generator = load(folder)
        found |= {(number, question): asyncio.run(reply(generator, question, mix())) for question in questions}
        generator.close()
    assert len(set(found.values())) == len(found)
    return found


def merge_each(
    base: Path, place: Path, adapters: Mapping[str, Path], mixes: Sequence[Mapping[str, float]]
) -> list[Path]:
    """Return a folder for each mixture of adapters, merged into the base."""
    return [
        merged(base, place / f"m{number}", [(adapters[name], scale) for name, scale in scales.items()])
        for number, scales in enumerate(mixes)
    ]
