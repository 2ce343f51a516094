"""A model's dimensions, as a config.json states them, and the tensors they call for.

The file is input, not configuration: known keys are taken one by one, with type and range checks, and everything else
is ignored. Knows nothing about weights files.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import WeightsError
from backend.weights.disk import integer, number

CONFIG = "config.json"
EMBED, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_BASE_POSITIONS = (2048, 4096)  # LLaMA 1, Llama 2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is known of a model of any kind: embedding rows, context in tokens, whether the head is the embeddings."""

    vocab: int
    max_positions: int = 2048
    tie: bool = False
    bos: int | None = 1
    eos: tuple[int, ...] = (2,)


@dataclass(frozen=True, kw_only=True)
class ModelShape(Shape):
    """What a Llama model is: sizes in elements, ``rope_scaling`` as config.json has it."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    norm_eps: float
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

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
    kv_heads = _optional(data, "num_key_value_heads", heads)
    head_dim = _optional(data, "head_dim", hidden // heads)
    if heads % kv_heads or head_dim % 2 or (not data.get("head_dim") and hidden % heads):
        raise WeightsError("weights.config_does_not_fit", hidden=hidden, heads=heads, kv_heads=kv_heads)
    rope = _rope(data)
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
        max_positions=_config_positions(data, rope),
        tie=data.get("tie_word_embeddings") is True,
        attention_bias=data.get("attention_bias") is True,
        mlp_bias=data.get("mlp_bias") is True,
        bos=token_id(data.get("bos_token_id")),
        eos=token_ids(data.get("eos_token_id")),
    )


def _config_positions(data: Mapping[str, Any], rope: Mapping[str, Any]) -> int:
    """Return the tokens of context. Uploads of March 2023 call them ``max_sequence_length`` only; later that is the
    context after linear stretching (Vicuna v1.5 16k: 4096 positions, factor 4, 16384), where it is stated at all."""
    longest = data.get("max_sequence_length")
    table = {"max_position_embeddings": data.get("max_position_embeddings") or longest or 2048}
    positions = integer(table, "max_position_embeddings", CONFIG)
    if rope.get("rope_type", rope.get("type")) != "linear":
        return positions
    stretch = number(rope, "factor", CONFIG, low=1, high=1024)
    if longest is not None:
        return max(positions, integer(data, "max_sequence_length", CONFIG))
    return int(positions * stretch) if positions in _BASE_POSITIONS else positions


def _optional(data: Mapping[str, Any], key: str, otherwise: int) -> int:
    """Return a number of heads or a head's size; absent, null and 0 all mean the usual one."""
    return integer({key: data.get(key) or otherwise}, key, CONFIG, high=4096)


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
    plain.pop("type", None)  # the key's name until transformers 4.43; today's would silently compute without scaling
    plain = {} if kind == "default" else {**plain, "rope_type": kind}
    return {"rope_theta": table.get("rope_theta") or data.get("rope_theta") or 10000.0, **plain}


def token_id(value: Any) -> int | None:
    """Return a token's id, or None for what cannot be one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 24 else None


def token_ids(value: Any) -> tuple[int, ...]:
    """Return the ids in a config.json's number or list of numbers."""
    values = value if isinstance(value, list) else [value]
    return tuple(token for token in map(token_id, values[:16]) if token is not None)
