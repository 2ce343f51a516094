"""Tiny random Llama checkpoints in every layout, written with torch and safetensors themselves: the oracles' side."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]
TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True)
class Tiny:
    """The dimensions of a small model; ``ffn`` follows Meta's formula with multiple_of 16."""

    hidden: int = 32
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    vocab: int = 300
    dtype: str = "F16"
    llama3: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def ffn(self) -> int:
        return -(-int(8 * self.hidden / 3) // 16) * 16

    def params(self) -> dict[str, object]:
        table: dict[str, object] = {
            "dim": self.hidden,
            "multiple_of": 16,
            "n_heads": self.heads,
            "n_layers": self.layers,
            "norm_eps": 1e-06,
            "vocab_size": -1,
        }
        if self.kv_heads != self.heads:
            table["n_kv_heads"] = self.kv_heads
        if self.llama3:
            table |= {"rope_theta": 500000.0, "use_scaled_rope": True, "vocab_size": self.vocab}
        return table

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "rms_norm_eps": 1e-06,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
        }


def weights(tiny: Tiny, seed: int = 0, *, scale: float = 0.1, norm: float = 1.0) -> Weights:
    """Random weights under Hugging Face names, in the model's order; ``norm`` is the mean of the norm weights."""
    random = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=random) * scale).to(TORCH[tiny.dtype])

    def norms() -> torch.Tensor:
        return (some(tiny.hidden).float() + norm).to(TORCH[tiny.dtype])

    kv = tiny.kv_heads * tiny.head_dim
    found: Weights = {"model.embed_tokens.weight": some(tiny.vocab, tiny.hidden)}
    for layer in range(tiny.layers):
        at = f"model.layers.{layer}."
        found[at + "self_attn.q_proj.weight"] = some(tiny.hidden, tiny.hidden)
        found[at + "self_attn.k_proj.weight"] = some(kv, tiny.hidden)
        found[at + "self_attn.v_proj.weight"] = some(kv, tiny.hidden)
        found[at + "self_attn.o_proj.weight"] = some(tiny.hidden, tiny.hidden)
        found[at + "mlp.gate_proj.weight"] = some(tiny.ffn, tiny.hidden)
        found[at + "mlp.up_proj.weight"] = some(tiny.ffn, tiny.hidden)
        found[at + "mlp.down_proj.weight"] = some(tiny.hidden, tiny.ffn)
        found[at + "input_layernorm.weight"] = norms()
        found[at + "post_attention_layernorm.weight"] = norms()
    found["model.norm.weight"] = norms()
    found["lm_head.weight"] = some(tiny.vocab, tiny.hidden)
    return found


META = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
}


def meta_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in META:
        return f"{META[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"layers.{layer}.{META[part]}.weight"


def to_meta_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo transformers' permutation: view as (heads, 2, half, in), swap, flatten."""
    rows, columns = tensor.shape
    return tensor.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_meta(
    folder: Path, tiny: Tiny, found: Mapping[str, torch.Tensor], *, shards: int = 1, shared_storage: bool = False
) -> Path:
    """Write Meta's layout; ``shared_storage`` keeps all tensors of a shard as views of one storage, as LLaMA-13B's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(tiny.params()))
    for shard in range(shards):
        state: Weights = {}
        for name, tensor in found.items():
            raw = tensor
            if ".q_proj." in name:
                raw = to_meta_heads(tensor, tiny.heads)
            elif ".k_proj." in name:
                raw = to_meta_heads(tensor, tiny.kv_heads)
            columns = any(part in name for part in ("o_proj", "down_proj")) or ("embed" in name and not tiny.llama3)
            part = raw if raw.dim() == 1 else raw.chunk(shards, 1 if columns else 0)[shard]
            state[meta_name(name)] = part.clone()
        if shared_storage:
            state = in_one_storage(state)
        state["rope.freqs"] = torch.ones(tiny.head_dim // 2)
        torch.save(state, folder / f"consolidated.{shard:02d}.pth")
    return folder


def in_one_storage(state: Mapping[str, torch.Tensor]) -> Weights:
    flat = torch.cat([tensor.reshape(-1) for tensor in state.values()])
    views, at = {}, 0
    for name, tensor in state.items():
        views[name] = flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    return views


def write_hf(
    folder: Path,
    tiny: Tiny,
    found: Mapping[str, torch.Tensor],
    *,
    kind: str = "safetensors",
    shards: int = 1,
    **config: object,
) -> Path:
    """Write a Hugging Face folder; extra keywords overwrite config.json entries."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny.config() | config))
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names = list(found)
    step = -(-len(names) // shards)
    table = {}
    for number in range(shards):
        part = {name: found[name].clone() for name in names[number * step : (number + 1) * step]}
        file = f"{stem}.{suffix}" if shards == 1 else f"{stem}-{number + 1:05d}-of-{shards:05d}.{suffix}"
        table |= dict.fromkeys(part, file)
        if suffix == "bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file, metadata={"format": "pt"})
    if shards > 1:
        total = sum(tensor.nbytes for tensor in found.values())
        index = {"metadata": {"total_size": total}, "weight_map": table}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def write_lora(
    folder: Path,
    tiny: Tiny,
    *,
    rank: int = 4,
    alpha: float = 8,
    vocab: int | None = None,
    dtype: str = "F32",
    kind: str = "bin",
    seed: int = 5,
    **config: object,
) -> Weights:
    """Write a PEFT adapter on every linear layer (``vocab``: and whole embeddings of so many rows); return its keys."""
    random = torch.Generator().manual_seed(seed)
    state: Weights = {}

    def some(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=random) * 0.1).to(TORCH[dtype])

    for name, tensor in weights(tiny).items():
        if "_proj" in name:
            stem = "base_model.model." + name.removesuffix(".weight")
            state[stem + ".lora_A.weight"] = some(rank, tensor.shape[1])
            state[stem + ".lora_B.weight"] = some(tensor.shape[0], rank)
    if vocab:
        state["base_model.model.model.embed_tokens.weight"] = some(vocab, tiny.hidden)
        state["base_model.model.lm_head.weight"] = some(vocab, tiny.hidden)
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "bin":
        torch.save(state, folder / "adapter_model.bin")
    else:
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    table = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"] if vocab else None,
        "enable_lora": None,
        "base_model_name_or_path": "tiny",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(table | config))
    return state


TEXT = (
    "The quick brown fox jumps over the lazy dog.",
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers. USER: Hello! ASSISTANT: Hi there.",
    "def add(a, b):\n    return a + b  # 1234567890",
    "你好，世界！这是一个用来训练分词器的句子。骆马和羊驼都是南美洲的动物。",
    "分词器把文字切成小块，模型一块一块地写出回答。",
)


@cache
def tokenizer_model(vocab: int = 500) -> bytes:
    """The bytes of a LLaMA-like tokenizer.model, trained on a few sentences."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 3),
        model_writer=out,
        model_type="bpe",
        vocab_size=vocab,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        character_coverage=0.99,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    return out.getvalue()
