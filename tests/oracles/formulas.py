"""Rules that were published as scripts only, which no longer run or are in no package: their formulas on whole tensors,
in plain torch.

Sources: ymcui/Chinese-LLaMA-Alpaca ``scripts/merge_llama_with_chinese_lora_low_mem.py``; tatsu-lab/stanford_alpaca
``weight_diff.py``; haotian-liu/LLaVA ``llava/model/apply_delta.py``.
"""

from collections.abc import Sequence

import torch

from tests.backend.weights.make import Weights

_PREFIX = "base_model.model."
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


def chinese_alpaca(base: Weights, adapters: Sequence[tuple[Weights, float]]) -> Weights:
    """Fold adapters, each with its alpha / r, into an fp16 base: tensor by tensor, adapter by adapter, what is saved
    whole replaces first, then the float32 product is added and rounded once to fp16."""
    merged: Weights = {}
    for name, tensor in base.items():
        found = tensor.clone()
        for state, scaling in adapters:
            if _PREFIX + name in state:
                found = state[_PREFIX + name].half().clone()
            stem = _PREFIX + name.removesuffix(".weight")
            if f"{stem}.lora_A.weight" in state:
                down, up = state[f"{stem}.lora_A.weight"], state[f"{stem}.lora_B.weight"]
                found += (up.float() @ down.float()) * scaling
        merged[name] = found
    return merged


def stanford_alpaca(raw: Weights, difference: Weights) -> Weights:
    """Recover the tuned model in float32; the base's row for [PAD] is the mean of all others."""
    found: Weights = {}
    for name, tensor in raw.items():
        base = tensor.float()
        if name in _VOCABULARY:
            base = torch.cat([base, base.mean(dim=0, keepdim=True)])
        found[name] = difference[name].float() + base
    return found


def llava(base: Weights, delta: Weights) -> Weights:
    """Add the base to the delta where the base has rows; the delta's further rows stay as they are."""
    found: Weights = {}
    for name, tensor in delta.items():
        found[name] = tensor.clone()
        if name in base:
            rows = base[name].shape[0]
            found[name][:rows] += base[name]
    return found
