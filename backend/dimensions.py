"""A model's dimensions, enough to name every tensor without opening a file. Knows nothing about machines or bytes.

The words are those of transformers' config.json; the tensors are those that its classes save. A config.json is input:
what is no plain number of a sensible size makes the dimensions unknown, never an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Any

MIXTRAL, QWEN3_MOE, PHI3, T5 = "mixtral", "qwen3_moe", "phi3", "t5"
_FOUR_NORMS = ("gemma2", "gemma3_text")
_QK_NORMS = ("qwen3", QWEN3_MOE, "gemma3_text")
_GEMMAS = ("gemma", "gemma2", "gemma3_text")
KINDS = ("llama", "mistral", "qwen2", "qwen3", *_GEMMAS, PHI3, T5, MIXTRAL, QWEN3_MOE)
_STRETCHING = ("dynamic", "longrope", "su")
_T5_BUCKETS = 32
_MOST = 1 << 24  # no dimension of a model is larger
_T5_CONTEXT = 2048  # positions are relative, so n_positions is no limit; FastChat-T5 was trained on so many


class Role(StrEnum):
    """What a tensor is for. Quantisation shrinks matrices; per token, one expert in so many is read."""

    EMBEDDING = "embedding"
    HEAD = "head"
    MATRIX = "matrix"
    EXPERT = "expert"
    VECTOR = "vector"  # norms, biases and other small things


@dataclass(frozen=True)
class TensorShape:
    """One tensor: its name in the files, its sizes in elements, rows first."""

    name: str
    shape: tuple[int, ...]
    role: Role

    @property
    def count(self) -> int:
        """Elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Stored:
    """A file that is loaded as it is, in bytes: itself, the cache of a token, and what is laid out anew beside it."""

    bytes: int
    cache: int
    again: int = 0


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Sizes in elements. ``kind`` is config.json's ``model_type``; ``layers`` of a T5 are those of each half.

    ``window``: tokens that attention looks back in ``window_layers`` of the layers (None: in all of them no limit).
    ``original_context``: where positions are stretched as LongRoPE does, the tokens up to which they are not.
    ``experts``: feed-forward blocks per layer, ``active_experts`` of which each token uses; ``gated``: three matrices
    a block, not two; ``stretches``: what a position means depends on how long the whole text is; ``stored``: the
    weights are a ready-made GGUF file, of whatever kind.
    """

    kind: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    context: int
    tie: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    window_layers: int = 0
    original_context: int | None = None
    mlp_bias: bool = False
    gated: bool = True
    experts: int = 0
    active_experts: int = 0
    stretches: bool = False
    stored: Stored | None = None

    @property
    def queries(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all key heads together, which is that of the values."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Weights in all."""
        return sum(tensor.count * times for tensor, times in self.distinct())

    @property
    def active_parameters(self) -> int:
        """Weights that computing one token reads: one row of the embeddings, and of the experts those it uses."""
        counts = [(tensor.role, tensor.count * times) for tensor, times in self.distinct()]
        total = sum(count for role, count in counts if role not in (Role.EXPERT, Role.EMBEDDING))
        if self.experts:
            experts = sum(count for role, count in counts if role is Role.EXPERT)
            total += experts * self.active_experts // self.experts
        return total + (self.vocab * self.hidden if self.tie else self.hidden)

    def tensors(self) -> Iterator[TensorShape]:
        """Yield every tensor of a checkpoint of this model."""
        for tensor, times in self.distinct():
            if times == 1:
                yield tensor
            else:
                for layer in range(times):
                    yield TensorShape(tensor.name.replace(".0.", f".{layer}.", 1), tensor.shape, tensor.role)

    def distinct(self) -> Iterator[tuple[TensorShape, int]]:
        """Yield the tensors, those of equal layers once, with how often they are there; the name is the first one's."""
        if self.kind == T5:
            yield from ((tensor, 1) for tensor in _t5(self))
            return
        yield TensorShape("model.embed_tokens.weight", (self.vocab, self.hidden), Role.EMBEDDING), 1
        for name, shape, role in _layer(self):
            yield TensorShape(f"model.layers.0.{name}", shape, role), self.layers
        yield TensorShape("model.norm.weight", (self.hidden,), Role.VECTOR), 1
        if not self.tie:
            yield TensorShape("lm_head.weight", (self.vocab, self.hidden), Role.HEAD), 1


_Part = tuple[str, tuple[int, ...], Role]


def _layer(size: Dimensions) -> Iterator[_Part]:
    yield from _attention(size)
    yield from _feed_forward(size)
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield f"{name}.weight", (size.hidden,), Role.VECTOR
    if size.kind in _FOUR_NORMS:
        for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            yield f"{name}.weight", (size.hidden,), Role.VECTOR


def _attention(size: Dimensions) -> Iterator[_Part]:
    hidden, queries, keys = size.hidden, size.queries, size.keys
    if size.kind == PHI3:
        yield "self_attn.qkv_proj.weight", (queries + 2 * keys, hidden), Role.MATRIX
        yield "self_attn.o_proj.weight", (hidden, queries), Role.MATRIX
        return
    for part, rows, columns in (
        ("q", queries, hidden),
        ("k", keys, hidden),
        ("v", keys, hidden),
        ("o", hidden, queries),
    ):
        yield f"self_attn.{part}_proj.weight", (rows, columns), Role.MATRIX
        if size.attention_bias and (part != "o" or size.kind != "qwen2"):
            yield f"self_attn.{part}_proj.bias", (rows,), Role.VECTOR
    if size.qk_norm:
        for name in ("q_norm", "k_norm"):
            yield f"self_attn.{name}.weight", (size.head_dim,), Role.VECTOR


def _feed_forward(size: Dimensions) -> Iterator[_Part]:
    hidden, ffn = size.hidden, size.ffn
    if size.experts:
        names = ("w1", "w3", "w2") if size.kind == MIXTRAL else ("gate_proj", "up_proj", "down_proj")
        block = "block_sparse_moe" if size.kind == MIXTRAL else "mlp"
        yield f"{block}.gate.weight", (size.experts, hidden), Role.MATRIX
        for expert in range(size.experts):
            for name, shape in zip(names, ((ffn, hidden), (ffn, hidden), (hidden, ffn)), strict=True):
                yield f"{block}.experts.{expert}.{name}.weight", shape, Role.EXPERT
        return
    if size.kind == PHI3:
        yield "mlp.gate_up_proj.weight", (2 * ffn, hidden), Role.MATRIX
        yield "mlp.down_proj.weight", (hidden, ffn), Role.MATRIX
        return
    for part, rows, columns in (("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn)):
        yield f"mlp.{part}_proj.weight", (rows, columns), Role.MATRIX
        if size.mlp_bias:
            yield f"mlp.{part}_proj.bias", (rows,), Role.VECTOR


def _t5(size: Dimensions) -> Iterator[TensorShape]:
    """T5 v1.1 and its like: an encoder and a decoder; the first block of each holds the table of distances."""
    yield TensorShape("shared.weight", (size.vocab, size.hidden), Role.EMBEDDING)
    for half, attentions in (("encoder", ("SelfAttention",)), ("decoder", ("SelfAttention", "EncDecAttention"))):
        for block in range(size.layers):
            for layer, attention in enumerate(attentions):
                place = f"{half}.block.{block}.layer.{layer}"
                for part in "qkv":
                    yield TensorShape(f"{place}.{attention}.{part}.weight", (size.queries, size.hidden), Role.MATRIX)
                yield TensorShape(f"{place}.{attention}.o.weight", (size.hidden, size.queries), Role.MATRIX)
                if block == layer == 0:
                    name = f"{place}.{attention}.relative_attention_bias.weight"
                    yield TensorShape(name, (_T5_BUCKETS, size.heads), Role.VECTOR)
                yield TensorShape(f"{place}.layer_norm.weight", (size.hidden,), Role.VECTOR)
            place = f"{half}.block.{block}.layer.{len(attentions)}"
            for part in ("wi_0", "wi_1") if size.gated else ("wi",):
                yield TensorShape(f"{place}.DenseReluDense.{part}.weight", (size.ffn, size.hidden), Role.MATRIX)
            yield TensorShape(f"{place}.DenseReluDense.wo.weight", (size.hidden, size.ffn), Role.MATRIX)
            yield TensorShape(f"{place}.layer_norm.weight", (size.hidden,), Role.VECTOR)
        yield TensorShape(f"{half}.final_layer_norm.weight", (size.hidden,), Role.VECTOR)
    if not size.tie:
        yield TensorShape("lm_head.weight", (size.vocab, size.hidden), Role.HEAD)


def dimensions_from_config(config: Mapping[str, Any]) -> Dimensions | None:
    """Return the dimensions that a config.json states; None for a kind that is not known, or numbers that are none."""
    kind = config.get("model_type", "llama" if "hidden_size" in config else None)
    if kind == "gemma3" and isinstance(config.get("text_config"), Mapping):
        config, kind = {**config["text_config"], "tie_word_embeddings": True}, "gemma3_text"
    if kind not in KINDS:
        return None
    try:
        return _from_t5(config) if kind == T5 else _from_decoder(kind, config)
    except _Unknown:
        return None


class _Unknown(Exception):
    """A number is missing, or is none."""


def _whole(config: Mapping[str, Any], *names: str, usual: int | None = None) -> int:
    """Return the first of these keys that states a number."""
    for name in names:
        value = config.get(name)
        if value is not None and value != 0:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST:
                raise _Unknown
            return value
    if usual is None:
        raise _Unknown
    return usual


def _from_decoder(kind: str, config: Mapping[str, Any]) -> Dimensions:
    hidden, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
    layers = _whole(config, "num_hidden_layers")
    experts = _whole(config, "num_local_experts", "num_experts") if kind in (MIXTRAL, QWEN3_MOE) else 0
    wide = ("moe_intermediate_size", "intermediate_size") if kind == QWEN3_MOE else ("intermediate_size",)
    window, window_layers = _window(kind, config, layers)
    return Dimensions(
        kind=kind,
        vocab=_whole(config, "vocab_size"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_whole(config, "num_key_value_heads", usual=heads),
        head_dim=_whole(config, "head_dim", usual=256 if kind in _GEMMAS else max(1, hidden // heads)),
        ffn=_whole(config, *wide),
        context=_whole(config, "max_sequence_length", "max_position_embeddings", usual=2048),
        tie=config.get("tie_word_embeddings", kind in _GEMMAS) is True,
        attention_bias=kind == "qwen2" or config.get("attention_bias") is True,
        qk_norm=kind in _QK_NORMS,
        window=window,
        window_layers=window_layers,
        original_context=_original_context(kind, config),
        mlp_bias=config.get("mlp_bias") is True,
        experts=experts,
        active_experts=_whole(config, "num_experts_per_tok", usual=2) if experts else 0,
        stretches=stretches(config.get("rope_scaling")) or stretches(config.get("rope_parameters")),
    )


def stretches(rope: Any) -> bool:
    """Tell whether a table of rotary settings makes positions depend on the length of the text: transformers computes
    those anew at every step (``dynamic_rope_update``)."""
    if not isinstance(rope, Mapping):
        return False
    tables = (rope, *(table for table in rope.values() if isinstance(table, Mapping)))  # one for each kind of layer
    return any(table.get("rope_type", table.get("type")) in _STRETCHING for table in tables)


def _original_context(kind: str, config: Mapping[str, Any]) -> int | None:
    """Return the context before it was stretched; Phi-3 has had three names for the one way in which it is."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if kind != PHI3 or not isinstance(scaling, Mapping):
        return None
    stretched = scaling.get("rope_type", scaling.get("type")) in ("longrope", "su", "yarn")
    return _whole(config, "original_max_position_embeddings", usual=4096) if stretched else None


def _window(kind: str, config: Mapping[str, Any], layers: int) -> tuple[int | None, int]:
    """Return the window and in how many layers it holds: in every other one of Gemma 2, in five of six of Gemma 3."""
    window = _whole(config, "sliding_window", usual=0)
    if not window or (kind.startswith("qwen") and config.get("use_sliding_window") is not True):
        return None, 0
    listed = config.get("layer_types")
    if isinstance(listed, list) and len(listed) == layers:
        return window, sum(entry == "sliding_attention" for entry in listed)
    if kind == "gemma2":
        return window, (layers + 1) // 2
    if kind == "gemma3_text":
        return window, layers - layers // _whole(config, "sliding_window_pattern", usual=6)
    if kind.startswith("qwen"):
        return window, max(0, layers - _whole(config, "max_window_layers", usual=layers))
    return window, layers


def _from_t5(config: Mapping[str, Any]) -> Dimensions:
    hidden, heads = _whole(config, "d_model"), _whole(config, "num_heads")
    return Dimensions(
        kind=T5,
        vocab=_whole(config, "vocab_size"),
        hidden=hidden,
        layers=_whole(config, "num_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=_whole(config, "d_kv"),
        ffn=_whole(config, "d_ff"),
        context=_T5_CONTEXT,
        tie=config.get("tie_word_embeddings", True) is True,
        gated=str(config.get("feed_forward_proj", "relu")).startswith("gated"),
    )
