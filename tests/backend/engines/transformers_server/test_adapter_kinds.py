"""Attached LoRAs on other kinds than Llama: the tokens that their plain sum gives, in batches and one at a time."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from backend.engines.base import EngineOptions, Lora, Sampling
from backend.engines.generator import Readiness
from backend.engines.transformers_server import loading
from tests.backend.engines.kind_loras import added, write_lora
from tests.backend.engines.llamacpp_server.kinds import VARIANTS, write_model

NEW = 16
PROMPTS = ([1, 300, 270, 281], [1, *range(265, 300), *range(310, 270, -1)])
MIXES: tuple[dict[str, float], ...] = ({}, {"layers": 1.0}, {"layers": 0.5, "words": 1.0}, {"words": -1.0})
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("gemma", {"head_dim": 32}),
    **{name: VARIANTS[name] for name in ("mistral", "qwen2", "qwen2, tied, stretched", "qwen3, tied", "phi3",
                                         "gemma2", "gemma3")},
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def load(folder: Path, *loras: Path) -> Any:
    attached = tuple(Lora(str(one)) for one in loras)
    options = EngineOptions(engine="transformers", device="cpu", dtype="float32", loras=attached)
    return loading.load(Readiness(folder, options))


def summed(model: Any, ids: list[int], loras: Mapping[Path, float]) -> list[int]:
    """Return the reply of a model with LoRAs added to its weights."""
    batch = torch.tensor([ids])
    config = GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=2)
    with added(model, list(loras.items())):
        made = model.generate(batch, attention_mask=torch.ones_like(batch), generation_config=config)
    reply: list[int] = made[0, len(ids) :].tolist()
    return reply


async def one(source: Any, ids: list[int], mix: Mapping[str, float]) -> list[int]:
    sampling = Sampling(temperature=0.0, loras=tuple(mix.items()))
    return [token async for part in source.stream(ids, sampling, NEW) for token in part]


@pytest.mark.parametrize("name", KINDS)
def test_each_mixture_says_what_its_sum_says(name: str, tmp_path: Path) -> None:
    kind, changes = KINDS[name]
    folder = tmp_path / "model"
    model = write_model(folder, kind, changes)
    loras = {part: write_lora(tmp_path / part, folder, words=part == "words") for part in ("layers", "words")}
    asked = [(ids, mix) for ids in PROMPTS for mix in MIXES]
    wanted = [summed(model, ids, {loras[part]: scale for part, scale in mix.items()}) for ids, mix in asked]
    assert len(set(map(tuple, wanted))) == len(wanted)
    generator = load(folder, *loras.values())
    source = generator._source

    async def crowd() -> list[list[int]]:
        if source.slots > 1:
            return list(await asyncio.gather(*(one(source, *request) for request in asked)))
        return [await one(source, *request) for request in asked]

    try:
        assert (source.slots == 1) == (kind == "gemma2")
        assert asyncio.run(asyncio.wait_for(crowd(), 120)) == wanted
    finally:
        generator.close()
