"""Holds attached and merged LoRAs against PEFT itself, model kind by model kind: the same tokens, or an exit code of 1.

    python -m tests.oracles.attach_lora

wants peft (0.21.2 was used) beside this project's own packages. What PEFT saves is what people download: with word
tables that two layers share, under every one of its names, and scaled as Gemma's are.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from backend.weights.finish import finish_folder
from backend.weights.lora import add_lora
from backend.weights.opening import open_checkpoint
from backend.weights.writer import save
from tests.backend.engines.llamacpp_server.kinds import write_model
from tests.backend.engines.transformers_server.test_adapter_kinds import KINDS, NEW, PROMPTS, load, one

WORDS: tuple[Sequence[str], ...] = (
    ("q_proj", "embed_tokens"),
    ("q_proj", "lm_head"),
    ("q_proj", "embed_tokens", "lm_head"),
)
Case = tuple[str, str | list[str], bool]  # kind, what is trained, whether a shared word table is trained as one


def cases() -> Iterator[Case]:
    """Yield every kind with all its linear layers, and some with word tables."""
    for name in KINDS:
        yield name, "all-linear", False
    for name in KINDS:
        yield from ((name, list(targets), False) for targets in WORDS if not name.startswith("phi3"))
    yield from (("qwen3, tied", list(targets), True) for targets in WORDS[::2])


def trained(model: Any, case: Case, folder: Path) -> list[list[int]]:
    """Save an adapter of random numbers, and return what PEFT answers with it."""
    from peft import LoraConfig, get_peft_model

    together = {"ensure_weight_tying": True} if case[2] else {}
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=case[1], init_lora_weights=False, task_type="CAUSAL_LM", **together
    )
    made = get_peft_model(model, config)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.15, generator=random)
    made.save_pretrained(folder)
    asked = GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=2)
    said = []
    for ids in PROMPTS:
        batch = torch.tensor([ids])
        whole = made.generate(input_ids=batch, attention_mask=torch.ones_like(batch), generation_config=asked)
        said.append(whole[0, len(ids) :].tolist())
    return said


def replies(folder: Path, *loras: Path) -> list[list[int]]:
    """Return what Cria answers with an adapter, attached if one is given."""
    generator = load(folder, *loras)
    try:
        return [asyncio.run(one(generator._source, ids, {lora.name: 1.0 for lora in loras})) for ids in PROMPTS]
    finally:
        generator.close()


def merge(base: Path, lora: Path, out: Path) -> Path:
    """Return a folder with the adapter merged in."""
    checkpoint = add_lora(open_checkpoint(base), lora)
    list(save(checkpoint, out))
    finish_folder(checkpoint, out, sources=[lora, base])
    return out


def main() -> int:
    """Go through all cases; return how many of them differ."""
    wrong = 0
    for case in cases():
        with tempfile.TemporaryDirectory() as place:
            base, lora = Path(place) / "base", Path(place) / "lora"
            wanted = trained(write_model(base, *KINDS[case[0]]), case, lora)
            plain, attached = replies(base), replies(base, lora)
            merged = replies(merge(base, lora, Path(place) / "merged"))
        good = attached == wanted == merged != plain
        wrong += not good
        print("equal " if good else "DIFFER", *case)
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main()))
