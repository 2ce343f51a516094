"""A whole-tensor reference for what Cria's streaming pipeline must produce.

Meta shards -> Hugging Face names, base + delta, then LoRA, each in the simplest way that is right.
Written independently of export.py, so the two check each other. Knows nothing about streaming.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

State = dict[str, Tensor]

_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def from_meta(folder: Path) -> State:
    """Join the shards and give the tensors their Hugging Face names and row order."""
    heads = json.loads((folder / "params.json").read_text())["n_heads"]
    paths = sorted(folder.glob("consolidated.*.pth"))
    shards = [torch.load(path, weights_only=True) for path in paths]
    found = {}
    for name in shards[0]:
        if name == "rope.freqs":
            continue
        tensor = _join(name, [shard[name] for shard in shards])
        if name.endswith(("wq.weight", "wk.weight")):
            tensor = _permute(tensor, heads)
        found[_rename(name)] = tensor
    return found


def _join(name: str, parts: list[Tensor]) -> Tensor:
    if parts[0].ndim == 1:
        if any(not torch.equal(parts[0], part) for part in parts):
            raise ValueError(f"{name} differs between shards")
        return parts[0]
    by_column = name.startswith("tok_emb") or name.endswith(("wo.weight", "w2.weight"))
    return torch.cat(parts, dim=1 if by_column else 0)


def _permute(tensor: Tensor, heads: int) -> Tensor:
    """Row 2j + s of a head moves to row s * hd/2 + j."""
    size = tensor.shape[0] // heads
    order = [h * size + 2 * j + s for h in range(heads) for s in (0, 1) for j in range(size // 2)]
    return tensor[order]


def _rename(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("layers."):
        return f"{_NAMES[stem]}.weight"
    _, layer, rest = stem.split(".", 2)
    return f"model.layers.{layer}.{_NAMES[rest]}.weight"


def add_delta(base: State, folder: Path) -> State:
    """fp16 + fp16, rounded once per element."""
    delta: State = {}
    for path in sorted(folder.glob("pytorch_model-*.bin")):
        delta |= torch.load(path, weights_only=True)
    if delta.keys() != base.keys():
        raise ValueError(f"delta and base differ in {sorted(delta.keys() ^ base.keys())}")
    return {name: base[name] + delta[name] for name in base}


def add_lora(state: State, folder: Path) -> State:
    """W = fp16(float32(W) + (B @ A) * alpha / r); full tensors in the adapter replace."""
    config = json.loads((folder / "adapter_config.json").read_text())
    scaling = config["lora_alpha"] / config["r"]
    adapter = torch.load(folder / "adapter_model.bin", weights_only=True)
    merged = dict(state)
    for key, tensor in adapter.items():
        name = key.removeprefix("base_model.model.")
        if name.endswith(".lora_A.weight"):
            target = name.replace(".lora_A", "")
            b = adapter[key.replace("lora_A", "lora_B")].float()
            merged[target] = (state[target].float() + (b @ tensor.float()) * scaling).half()
        elif ".lora_B." not in name:
            merged[name] = tensor.half()
    return merged
