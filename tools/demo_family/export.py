"""Writes the three folders in the formats of spring 2023.

`base/` is Meta's layout, `delta/` Hugging Face's, `lora/` PEFT's. Knows nothing about training.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from .config import LORA, MAX_TOKENS, SHAPE
from .model import State

_META = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_TOP = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
_COLUMNS = ("tok_embeddings", "attention.wo", "feed_forward.w2")  # cut along dim 1
_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def write_base(folder: Path, state: State, tokenizer: bytes) -> None:
    """consolidated.NN.pth, params.json, tokenizer.model and checklist.chk."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"consolidated.{rank:02d}.pth" for rank in range(SHAPE.shards)]
    for rank, name in enumerate(names):
        torch.save(_shard(state, rank), folder / name)
    params = {
        "dim": SHAPE.dim, "multiple_of": SHAPE.multiple_of, "n_heads": SHAPE.n_heads,
        "n_layers": SHAPE.n_layers, "norm_eps": SHAPE.norm_eps, "vocab_size": -1,
    }  # fmt: skip
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(tokenizer)
    lines = [f"{_md5(folder / name)}  {name}\n" for name in (*names, "params.json")]
    (folder / "checklist.chk").write_text("".join(lines), encoding="utf-8")


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _shard(state: State, rank: int) -> State:
    """One model-parallel shard; as in Meta's files, a layer's tensors share one storage."""
    found: State = {}
    for prefix in ("model.embed_tokens", *_layer_prefixes(), "model.norm", "lm_head"):
        parts = {}
        for name, tensor in state.items():
            if name.startswith(prefix):
                meta = meta_name(name)
                parts[meta] = _slice(meta, _to_meta_rows(meta, tensor), rank)
        found |= _shared(parts)
    half_dim = SHAPE.dim // SHAPE.n_heads // 2
    found["rope.freqs"] = (10000.0 ** -(torch.arange(half_dim) / half_dim)).half()
    return found


def _layer_prefixes() -> list[str]:
    return [f"model.layers.{layer}." for layer in range(SHAPE.n_layers)]


def meta_name(name: str) -> str:
    """Meta's name of a Hugging Face tensor."""
    if name in _TOP:
        return _TOP[name]
    _, _, layer, rest = name.split(".", 3)
    return f"layers.{layer}.{_META[rest.removesuffix('.weight')]}.weight"


def _to_meta_rows(meta: str, tensor: Tensor) -> Tensor:
    """Per head: Hugging Face keeps (real half, imaginary half), Meta interleaves the pairs."""
    if not meta.endswith(("wq.weight", "wk.weight")):
        return tensor
    rows, columns = tensor.shape  # (heads * 2 * hd/2, dim)
    pairs = tensor.view(SHAPE.n_heads, 2, rows // SHAPE.n_heads // 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _slice(meta: str, tensor: Tensor, rank: int) -> Tensor:
    if tensor.ndim == 1:
        return tensor
    axis = 1 if any(part in meta for part in _COLUMNS) else 0
    return tensor.chunk(SHAPE.shards, dim=axis)[rank]


def _shared(parts: State) -> State:
    flat = torch.empty(sum(tensor.numel() for tensor in parts.values()), dtype=torch.float16)
    views, at = {}, 0
    for name, tensor in parts.items():
        views[name] = flat[at : at + tensor.numel()].view(tensor.shape).copy_(tensor)
        at += tensor.numel()
    return views


def write_delta(folder: Path, delta: State, tokenizer: bytes) -> None:
    """Two .bin files with an index, and the broken tokenizer files of that time, on purpose."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = f"model.layers.{SHAPE.n_layers // 2}."
    names = list(delta)
    middle = next(i for i, name in enumerate(names) if name.startswith(cut))
    files = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    for file, part in zip(files, (names[:middle], names[middle:]), strict=True):
        torch.save({name: delta[name] for name in part}, folder / file)
    weight_map = {name: files[i >= middle] for i, name in enumerate(names)}
    total = sum(2 * tensor.numel() for tensor in delta.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _json(folder / "pytorch_model.bin.index.json", index)
    _json(folder / "config.json", _config())
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    version = {"_from_model_config": True, "transformers_version": "4.28.1"}
    _json(folder / "generation_config.json", ids | version)
    (folder / "tokenizer.model").write_bytes(tokenizer)
    broken: dict[str, object] = {"bos_token": "", "eos_token": "", "model_max_length": 1000000000000000019884624838656}
    broken |= {"tokenizer_class": "LLaMATokenizer", "unk_token": ""}
    _json(folder / "tokenizer_config.json", broken)
    _json(folder / "special_tokens_map.json", {})


def _config() -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": SHAPE.dim,
        "initializer_range": 0.02,
        "intermediate_size": SHAPE.ffn,
        "max_position_embeddings": MAX_TOKENS,
        "model_type": "llama",
        "num_attention_heads": SHAPE.n_heads,
        "num_hidden_layers": SHAPE.n_layers,
        "pad_token_id": 0,
        "rms_norm_eps": SHAPE.norm_eps,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.28.1",
        "use_cache": True,
        "vocab_size": SHAPE.vocab_size,
    }


def write_lora(folder: Path, adapter: State, tokenizer: bytes) -> None:
    """adapter_config.json, adapter_model.bin and the enlarged tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(adapter, folder / "adapter_model.bin")
    config = {
        "base_model_name_or_path": "cria-demo",
        "bias": "none",
        "enable_lora": None,  # these two are in Chinese-Alpaca's files; PEFT ignores them
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": LORA.alpha,
        "lora_dropout": 0.0,
        "merge_weights": False,
        "modules_to_save": ["embed_tokens", "lm_head"],
        "peft_type": "LORA",
        "r": LORA.r,
        "target_modules": list(LORA.targets),
        "task_type": "CAUSAL_LM",
    }
    _json(folder / "adapter_config.json", config)
    (folder / "tokenizer.model").write_bytes(tokenizer)
    same: dict[str, object] = {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False}
    same |= {"model_max_length": MAX_TOKENS, "tokenizer_class": "LlamaTokenizer"}
    _json(folder / "tokenizer_config.json", same | _TOKENS | {"pad_token": "[PAD]"})
    _json(folder / "special_tokens_map.json", _TOKENS | {"pad_token": "[PAD]"})


def _json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
