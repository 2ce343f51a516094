"""Model folders small enough to load in no time, written without torch: random weights, a byte-fallback tokenizer."""

import json
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from backend.weights.checkpoint import Tensor
from backend.weights.safetensors_file import header_bytes
from backend.weights.shape import ModelShape

LETTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?!'\n<|>/你好世界"
MERGES = (("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "hello"), ("▁", "a"), ("你", "好"))
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT:"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
CONTEXT = 512


def tokenizer() -> Tokenizer:
    """Return a tokenizer put together as LLaMA's: BPE with byte fallback, one space before everything."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS]
    pieces += ["".join(pair) for pair in MERGES]
    made = Tokenizer(
        BPE({piece: i for i, piece in enumerate(pieces)}, list(MERGES), byte_fallback=True, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in pieces[:3]])
    return made


def shape() -> ModelShape:
    """Return the tiny model's dimensions."""
    return ModelShape(
        hidden=64,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=16,
        ffn=160,
        vocab=tokenizer().get_vocab_size(),
        norm_eps=1e-5,
        max_positions=CONTEXT,
    )


def weights(seed: int = 7) -> dict[str, np.ndarray]:
    """Return random weights, large enough for lively output; the end token never wins."""
    random = np.random.default_rng(seed)
    made = {}
    for name, size in shape().expected():
        scale = 0.0 if "norm" in name else 0.25
        made[name] = (random.standard_normal(size) * scale + (1.0 if "norm" in name else 0.0)).astype(np.float32)
    made["lm_head.weight"][:3] = 0.0
    return made


def write_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write one file."""
    tensors = [
        (name, Tensor("F32", array.shape, lambda start, stop, array=array: array[start:stop]))
        for name, array in arrays.items()
    ]
    path.write_bytes(header_bytes(tensors) + b"".join(array.tobytes() for array in arrays.values()))


def write_model(folder: Path, *, template: str | None = TEMPLATE, **record: object) -> Path:
    """Write a whole model folder; ``record`` goes into cria.json."""
    folder.mkdir(parents=True)
    size = shape()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "intermediate_size": size.ffn,
        "vocab_size": size.vocab,
        "max_position_embeddings": size.max_positions,
        "rms_norm_eps": size.norm_eps,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2]}))
    tokenizer().save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**special, **({"chat_template": template} if template else {})})
    )
    (folder / "cria.json").write_text(json.dumps(record))
    write_safetensors(folder / "model.safetensors", weights())
    return folder
