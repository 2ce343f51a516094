"""LoRAs for models of any kind, and the sums that merging them is, done plainly on transformers' own model."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from backend.weights.opening import open_checkpoint
from tests.backend.engines import tiny

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
RANK, ALPHA = 4, 8
_PREFIX = "base_model.model."


def write_lora(folder: Path, base: Path, *, words: bool = False, seed: int = 1, **config: object) -> Path:
    """Write a LoRA of every linear layer of a model's layers, or of the words going in and coming out.

    Its numbers are float16's, and so is what training multiplied them by: a file for llama.cpp loses nothing.
    """
    random, checkpoint = np.random.default_rng(seed), open_checkpoint(base)
    arrays: dict[str, np.ndarray] = {}

    def some(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.15).astype(np.float16).astype(np.float32)

    def pair(name: str, rows: int, columns: int) -> None:
        stem = _PREFIX + name.removesuffix(".weight")
        arrays[f"{stem}.lora_A.weight"], arrays[f"{stem}.lora_B.weight"] = some(RANK, columns), some(rows, RANK)

    if words:
        vocab, width = checkpoint[EMBED].shape
        stem = f"{_PREFIX}model.embed_tokens.lora_embedding_"
        arrays |= {f"{stem}A": some(RANK, vocab), f"{stem}B": some(width, RANK)}
        pair(HEAD, vocab, width)
    else:
        for name, tensor in checkpoint.items():
            if name.endswith("_proj.weight"):
                pair(name, *tensor.shape)
    folder.mkdir(parents=True)
    tiny.write_safetensors(folder / "adapter_model.safetensors", arrays)
    table = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(table | config))
    return folder


@contextmanager
def added(model: Any, loras: Sequence[tuple[Path, float]]) -> Iterator[None]:
    """Let a model be its sum with LoRAs of some strengths: W + strength * alpha / rank * B A. The two uses of a word
    table are two tables from here on, as PEFT trains them."""
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    weights = dict(model.named_parameters())
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for folder, strength in loras:
            arrays = load_file(folder / "adapter_model.safetensors")
            for key, down in arrays.items():
                name = key.removeprefix(_PREFIX)
                if name.endswith(".lora_A.weight"):
                    product = arrays[key.replace(".lora_A.", ".lora_B.")] @ down
                elif name.endswith(".lora_embedding_A"):
                    product = (arrays[f"{key[:-1]}B"] @ down).T
                else:
                    continue
                weights[f"{name.partition('.lora_')[0]}.weight"] += strength * (ALPHA / RANK) * product
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])
