"""Models of other kinds than Llama for the converter: tiny, random, by transformers' own classes for them."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.backend.engines import tiny

VOCAB = tiny.tokenizer().get_vocab_size()
_USUAL = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SHORT, LONG = [1.0 + 0.1 * number for number in range(8)], [2.0 + 0.7 * number for number in range(8)]
_LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 256}
_STRETCHED = {"original_max_position_embeddings": 256, "max_position_embeddings": 1024, "sliding_window": None}
_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
_LOCAL = {"rope_type": "default", "rope_theta": 500.0}
Changes = dict[str, Any]
VARIANTS: dict[str, tuple[str, Changes]] = {
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 32}),
    "mistral, within its window": ("mistral", {"sliding_window": 256}),
    "qwen2": ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2, tied, stretched": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": _YARN}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3, tied": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "phi3": ("phi3", {"sliding_window": 512}),
    "phi3, longrope": ("phi3", {**_STRETCHED, "rope_parameters": {
        **_LONGROPE, "short_factor": SHORT, "long_factor": LONG}}),
    "phi3, part of a head, tied": ("phi3", {**_STRETCHED, "tie_word_embeddings": True, "rope_parameters": {
        **_LONGROPE, "short_factor": SHORT[:6], "long_factor": LONG[:6], "partial_rotary_factor": 0.75}}),
    "gemma2": ("gemma2", {
        "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 40, "final_logit_softcapping": 10.0,
        "attn_logit_softcapping": 5.0}),
    "gemma3": ("gemma3_text", {
        "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 40, "num_hidden_layers": 7, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, "sliding_attention": _LOCAL}}),
}  # fmt: skip


def write_kind(folder: Path, name: str, **more: Any) -> Any:
    """Write a model folder of one of ``VARIANTS`` and return transformers' model, in float32."""
    kind, changes = VARIANTS[name]
    return write_model(folder, kind, {**changes, **more})


def write_model(folder: Path, kind: str, changes: Changes) -> Any:
    """Write a model folder of any kind and return transformers' model, in float32."""
    config = AutoConfig.for_model(kind, **{**_USUAL, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    random = torch.Generator().manual_seed(3)
    gemma = kind.startswith("gemma")
    with torch.no_grad():
        for part, weights in model.named_parameters():
            # Gemma's norms are stored less one, and a large last one makes its capped scores differ enough.
            middle = (6.0 if part == "model.norm.weight" else 0.0) if gemma else 1.0
            scale = 0.05 if gemma and "embed" in part else 0.2
            made = torch.randn(weights.shape, generator=random) * scale + (middle if "norm" in part else 0.0)
            weights.copy_(made.half().float())
        model.tie_weights()
    folder.mkdir()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_tokenizer(folder: Path) -> None:
    """Write the tiny models' tokenizer."""
    tiny.tokenizer().save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**special, "chat_template": tiny.TEMPLATE}))
