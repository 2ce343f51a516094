"""A model's dimensions, read from Meta's params.json or from a config.json, and the tensors they call for.

Both files are input, not configuration: known keys are taken one by one, with type and range checks, and everything
else is ignored. Knows nothing about weights files.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import WeightsError
from backend.weights.disk import integer, number

PARAMS, CONFIG = "params.json", "config.json"
EMBED, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"

# Keys of checkpoints whose tensors are not plain Llama text weights.
_FOREIGN_PARAMS = ("vision_chunk_size", "vision_model", "vision_max_num_chunks", "quantization_args", "lora_args",
                   "hidden_dim", "rope_freq_base", "moe", "moe_args")  # fmt: skip


@dataclass(frozen=True)
class ModelShape:
    """What a Llama model is: sizes in elements, ``max_positions`` in tokens, ``rope_scaling`` as config.json has it."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    norm_eps: float
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    max_positions: int = 2048
    tie: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    bos: int | None = 1
    eos: tuple[int, ...] = (2,)

    def expected(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and shape of every tensor, in the order the model lists them (transformers 4.31 and later)."""
        yield EMBED, (self.vocab, self.hidden)
        for layer in range(self.layers):
            for name, shape in self._layer():
                yield f"model.layers.{layer}.{name}", shape
        yield FINAL_NORM, (self.hidden,)
        if not self.tie:
            yield HEAD, (self.vocab, self.hidden)

    def _layer(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, ffn = self.hidden, self.ffn
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = (("q", queries, hidden), ("k", keys, hidden), ("v", keys, hidden), ("o", hidden, queries))
        mlp = (("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn))
        for block, parts, bias in (
            ("self_attn", attention, self.attention_bias),
            ("mlp", mlp, self.mlp_bias),
        ):
            for part, rows, columns in parts:
                yield f"{block}.{part}_proj.weight", (rows, columns)
                if bias:
                    yield f"{block}.{part}_proj.bias", (rows,)
        yield "input_layernorm.weight", (hidden,)
        yield "post_attention_layernorm.weight", (hidden,)


def unwrap_params(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the inner table of a params.json that wraps everything in {"model": ...}, as some releases do."""
    inner = data.get("model")
    return inner if isinstance(inner, dict) else data


def shape_from_params(data: Mapping[str, Any], *, ffn: int, vocab: int, dtype: str) -> ModelShape:
    """Build a shape from params.json and what the tensors say (rows of w1 and of the embeddings; their dtype).

    Raises:
        WeightsError: a required key is absent or out of range, sizes do not fit each other, or it is no text Llama.
    """
    foreign = next((key for key in _FOREIGN_PARAMS if data.get(key) not in (None, -1)), None)
    if foreign is not None:
        raise WeightsError("weights.params_foreign", key=foreign)
    dim, heads = integer(data, "dim", PARAMS), integer(data, "n_heads", PARAMS, high=4096)
    kv_heads = integer(data, "n_kv_heads", PARAMS, high=4096) if data.get("n_kv_heads") is not None else heads
    if dim % heads or heads % kv_heads or (dim // heads) % 2:
        raise WeightsError("weights.params_do_not_fit", dim=dim, heads=heads, kv_heads=kv_heads)
    stated = data.get("vocab_size", -1)
    if stated not in (-1, vocab):
        raise WeightsError("weights.vocab_differs", file=PARAMS, stated=str(stated)[:20], rows=vocab)
    theta = number(data, "rope_theta", PARAMS, low=1, high=1e12) if data.get("rope_theta") is not None else 10000.0
    scaled = bool(data.get("use_scaled_rope"))
    llama3 = theta == 500000.0
    return ModelShape(
        hidden=dim,
        layers=integer(data, "n_layers", PARAMS, high=1000),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim // heads,
        ffn=ffn,
        vocab=vocab,
        norm_eps=number(data, "norm_eps", PARAMS, low=1e-12, high=0.1),
        rope_theta=theta,
        rope_scaling=_llama3_scaling(dim) if scaled else None,
        max_positions=_positions(theta, scaled=scaled, dtype=dtype),
        bos=128000 if llama3 else 1,
        eos=(128001,) if llama3 else (2,),
    )


def _positions(theta: float, *, scaled: bool, dtype: str) -> int:
    """Tokens of context, which params.json does not say. LLaMA-1 is fp16 and saw 2048 tokens, Llama 2 bf16 and 4096."""
    if theta == 500000.0:
        return 131072 if scaled else 8192
    if theta > 10000.0:
        return 16384  # Code Llama
    return 4096 if dtype == "BF16" else 2048


def _llama3_scaling(dim: int) -> dict[str, Any]:
    """RoPE scaling of Llama 3.1 and later as their config.json files have it: factor 32 for the 1B and 3B text
    models."""
    return {
        "factor": 32.0 if dim in (2048, 3072) else 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }


def ffn_from_params(data: Mapping[str, Any]) -> int | None:
    """Return the feed-forward size by Meta's formula (llama/model.py), or None where params.json does not tell."""
    dim, multiple = data.get("dim"), data.get("multiple_of", 256)
    multiplier = data.get("ffn_dim_multiplier") or 1.0
    if not isinstance(dim, int) or not isinstance(multiple, int) or multiple < 1:
        return None
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 < multiplier < 1000:
        return None
    return multiple * math.ceil(int(multiplier * int(8 * dim / 3)) / multiple)


def shape_from_config(data: Mapping[str, Any], *, vocab: int) -> ModelShape:
    """Build a shape from config.json of a Llama model; ``vocab`` is the real number of embedding rows.

    Raises:
        WeightsError: another architecture, a required key absent or out of range, or sizes that do not fit each other.
    """
    kind = data.get("model_type", "llama" if "hidden_size" in data else None)
    if kind != "llama":
        raise WeightsError("weights.not_llama", kind=str(kind)[:60])
    if data.get("quantization_config") is not None:
        raise WeightsError("weights.quantised")
    hidden, heads = integer(data, "hidden_size", CONFIG), integer(data, "num_attention_heads", CONFIG, high=4096)
    kv_heads = integer({"n": data.get("num_key_value_heads") or heads}, "n", CONFIG, high=4096)
    head_dim = integer({"head_dim": data.get("head_dim") or hidden // heads}, "head_dim", CONFIG, high=4096)
    if heads % kv_heads or head_dim % 2 or (not data.get("head_dim") and hidden % heads):
        raise WeightsError("weights.config_does_not_fit", hidden=hidden, heads=heads, kv_heads=kv_heads)
    rope = _rope(data)
    positions = data.get("max_position_embeddings") or data.get("max_sequence_length") or 2048
    return ModelShape(
        hidden=hidden,
        layers=integer(data, "num_hidden_layers", CONFIG, high=1000),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=integer(data, "intermediate_size", CONFIG),
        vocab=vocab,
        norm_eps=number({"rms_norm_eps": data.get("rms_norm_eps", 1e-6)}, "rms_norm_eps", CONFIG, low=1e-12, high=0.1),
        rope_theta=number({"rope_theta": rope.pop("rope_theta", 10000.0)}, "rope_theta", CONFIG, low=1, high=1e12),
        rope_scaling=rope or None,
        max_positions=integer({"max_position_embeddings": positions}, "max_position_embeddings", CONFIG),
        tie=data.get("tie_word_embeddings") is True,
        attention_bias=data.get("attention_bias") is True,
        mlp_bias=data.get("mlp_bias") is True,
        bos=_token_id(data.get("bos_token_id")),
        eos=_token_ids(data.get("eos_token_id")),
    )


def _rope(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return theta and scaling together, from the old keys or from ``rope_parameters`` (transformers 5)."""
    new = data.get("rope_parameters")
    table = dict(new) if isinstance(new, dict) else {}
    old = data.get("rope_scaling")
    scaling = dict(old) if isinstance(old, dict) else {key: table[key] for key in table if key != "rope_theta"}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "linear", "dynamic", "yarn", "longrope", "llama3"):
        raise WeightsError("weights.rope_unknown", kind=str(kind)[:60])
    plain = {key: value for key, value in scaling.items() if isinstance(value, str | int | float | list)}
    if kind == "default":
        plain = {}
    return {"rope_theta": table.get("rope_theta") or data.get("rope_theta") or 10000.0, **plain}


def _token_id(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 24 else None


def _token_ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(token for token in map(_token_id, values[:16]) if token is not None)
