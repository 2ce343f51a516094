"""The kinds of models that llama.cpp computes exactly: how it calls them and their tensors, and which of their settings
it can follow. What it cannot is refused here, so that nothing is ever computed almost right.

Sources: llama.cpp's ``src/models/*.cpp`` (what each architecture reads and assumes) and transformers' ``models/*``
(what a config.json means, and what holds where it is silent). Knows nothing about files of GGUF or tokenizers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backend.dimensions import Dimensions, dimensions_from_config
from backend.errors import WeightsError
from backend.weights.as_is import AsIs
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import integer, number
from backend.weights.dtypes import FLOATS
from backend.weights.gguf_rope import LONGROPE, Rope, check_rope
from backend.weights.huggingface import differ
from backend.weights.shape import CONFIG, EMBED, HEAD, ModelShape

_ATTENTION = {f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"} | {"self_attn.o_proj": "attn_output"}
_MLP = {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
_TWO_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_FOUR_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_QK_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_FUSED = {
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_SILU, _GELU = ("hidden_act", "silu"), ("hidden_activation", "gelu_pytorch_tanh")
_PLAIN = frozenset({"default", "linear", "yarn"})
_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
             "max_position_embeddings", "rms_norm_eps")  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    """One kind: llama.cpp's name for it, its names of a layer's parts, and what holds for it there.

    ``turned``: neighbouring rows of queries and keys turn against each other, not halves of a head. ``offset``: norms
    are stored less one. ``square``: all heads together are as wide as the model.
    """

    arch: str
    parts: dict[str, str]
    ropes: frozenset[str] = _PLAIN
    activation: tuple[str, str] = _SILU
    biases: frozenset[str] = frozenset()
    turned: bool = False
    offset: bool = False
    square: bool = False


_LLAMA = _Kind(
    "llama", _ATTENTION | _MLP | _TWO_NORMS, _PLAIN | {"llama3"}, biases=frozenset(_ATTENTION | _MLP), turned=True
)  # fmt: skip
_GEMMA2 = _Kind("gemma2", _ATTENTION | _MLP | _FOUR_NORMS, frozenset({"default"}), _GELU, offset=True)
_BY_TYPE: Mapping[str, _Kind] = {
    "mistral": replace(_LLAMA, biases=frozenset()),
    "qwen2": _Kind(
        "qwen2", _ATTENTION | _MLP | _TWO_NORMS,
        biases=frozenset({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}), square=True,
    ),
    "qwen3": _Kind("qwen3", _ATTENTION | _MLP | _TWO_NORMS | _QK_NORMS),
    "phi3": _Kind("phi3", _FUSED | _TWO_NORMS, frozenset({"default", LONGROPE}), square=True),
    "gemma2": _GEMMA2,
    "gemma3_text": replace(
        _GEMMA2, arch="gemma3", parts=_GEMMA2.parts | _QK_NORMS, ropes=frozenset({"default", "linear"})
    ),
}  # fmt: skip
# Layers of the one size of a family whose attention llama.cpp divides by hidden / heads, not by the head's width.
_WIDE_LAYERS = {"gemma2": 46, "gemma3_text": 62}
_PERIOD = {"gemma2": 2, "gemma3_text": 6}  # every so manieth layer looks back all the way


@dataclass(frozen=True)
class Form:
    """A model as llama.cpp takes it. ``longest``: tokens of context up to which it computes what the model is;
    ``extra``: settings of this kind alone, without the name of the architecture."""

    kind: _Kind = field(repr=False)
    size: Dimensions
    norm_eps: float
    rope: Rope
    longest: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arch(self) -> str:
        """llama.cpp's name for this kind of model."""
        return self.kind.arch


def check_convertible(checkpoint: Checkpoint) -> Form:
    """Return what llama.cpp makes of a model.

    Raises:
        WeightsError: it is of a kind, or has a setting, that llama.cpp cannot compute exactly.
    """
    shape = checkpoint.shape
    if isinstance(shape, ModelShape):
        return _llama(shape)
    kind = _BY_TYPE.get(shape.kind) if isinstance(shape, AsIs) else None
    if kind is None or not isinstance(shape, AsIs):
        raise WeightsError("gguf.kind", kind=getattr(shape, "kind", "?")[:60])
    config = shape.config
    size = _dimensions(shape, config)
    _check(config.get(kind.activation[0], kind.activation[1]) == kind.activation[1], config, kind.activation[0])
    _check(not kind.square or size.queries == size.hidden, config, "head_dim")
    eps = number(config, "rms_norm_eps", CONFIG, low=1e-12, high=0.1)
    rope, extra = _OWN[shape.kind](config, size) if shape.kind in _OWN else (_rope(config, size), {})
    check_rope(rope, kind.ropes)
    limits = (size.context, rope.longest, None if shape.kind in _PERIOD else _window(shape.kind, config))
    form = Form(kind, size, eps, rope, min(limit for limit in limits if limit is not None), extra)
    _check_tensors(checkpoint, form)
    return form


def _llama(shape: ModelShape) -> Form:
    size = Dimensions(
        kind="llama", vocab=shape.vocab, hidden=shape.hidden, layers=shape.layers, heads=shape.heads,
        kv_heads=shape.kv_heads, head_dim=shape.head_dim, ffn=shape.ffn, context=shape.max_positions, tie=shape.tie,
        attention_bias=shape.attention_bias, mlp_bias=shape.mlp_bias,
    )  # fmt: skip
    rope = check_rope(Rope(shape.rope_theta, shape.head_dim, shape.rope_scaling or {}), _LLAMA.ropes)
    return Form(_LLAMA, size, shape.norm_eps, rope, shape.max_positions)


def _check(good: bool, config: Mapping[str, Any], key: str) -> None:
    """Refuse a setting."""
    if not good:
        raise WeightsError("gguf.setting", key=key, value=str(config.get(key))[:60])


def _dimensions(shape: AsIs, config: Mapping[str, Any]) -> Dimensions:
    """Return the sizes. What a config.json leaves out means something else to every class, so all must be there."""
    for key in _REQUIRED:
        _check(config.get(key) is not None, config, key)
    usual = {"qwen3": 128}.get(shape.kind)
    found = dimensions_from_config({**({"head_dim": usual} if usual else {}), **config})
    if found is None or found.heads % found.kv_heads or found.layers > 1000:
        raise WeightsError("gguf.setting", key="hidden_size", value=str(config.get("hidden_size"))[:60])
    return replace(found, vocab=shape.vocab)


def _check_tensors(checkpoint: Checkpoint, form: Form) -> None:
    """Make sure that the tensors are those which the settings call for, and that llama.cpp has a place for each."""
    expected = {tensor.name: tensor.shape for tensor in form.size.tensors()}
    for name, wanted in expected.items():
        tensor = checkpoint.get(name)
        if tensor is None:
            raise WeightsError("weights.tensor_missing", name=name)
        if tensor.shape != wanted:
            found = str(list(tensor.shape))
            raise WeightsError("weights.tensor_shape", name=name, found=found, expected=str(list(wanted)))
        if tensor.dtype not in FLOATS:
            raise WeightsError("weights.dtype_unknown", name=name, dtype=tensor.dtype)
        if name.endswith(".bias") and name.split(".", 3)[-1].removesuffix(".bias") not in form.kind.biases:
            raise WeightsError("gguf.setting", key="attention_bias", value="true")
    copied = form.size.tie and HEAD in checkpoint and not differ(checkpoint[EMBED], checkpoint[HEAD])
    left = sorted(set(checkpoint) - set(expected) - ({HEAD} if copied else set()))
    if left:
        raise WeightsError("weights.tensor_unknown", name=left[0][:120], count=len(left))


def _table(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config.json says of positions, from the old key or the new one, as transformers 5 takes it."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    _check(isinstance(found, Mapping), config, "rope_parameters")
    return dict(found)


def _made(table: Mapping[str, Any], theta: Any, rotary: int) -> Rope:
    scaling = {key: value for key, value in table.items() if key not in ("type", "rope_theta", "partial_rotary_factor")}
    scaling["rope_type"] = table.get("rope_type", table.get("type", "default"))
    if scaling["rope_type"] == "default":
        scaling = {}
    return Rope(number({"rope_theta": theta}, "rope_theta", CONFIG, low=1, high=1e12), rotary, scaling)


def _rope(config: Mapping[str, Any], size: Dimensions) -> Rope:
    """Return how positions are turned in a model with one way for all layers."""
    table = _table(config)
    partial = table.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    _check(partial in (None, 1), config, "partial_rotary_factor")
    return _made(table, table.get("rope_theta", config.get("rope_theta", 10000.0)), size.head_dim)


def _phi3(config: Mapping[str, Any], size: Dimensions) -> tuple[Rope, Mapping[str, Any]]:
    """Return Phi's rope: part of each head may be turned, LongRoPE has had three names, and the original context is
    stated outside."""
    table = _table(config)
    if table.get("rope_type", table.get("type")) in ("su", "yarn", LONGROPE):
        original = config.get("original_max_position_embeddings", 4096)
        table |= {"rope_type": LONGROPE, "original_max_position_embeddings": original}
    part = {"n": table.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))}
    rotary = int(size.head_dim * number(part, "n", CONFIG, low=0.01, high=1.0))
    return _made(table, table.get("rope_theta", config.get("rope_theta", 10000.0)), rotary), {}


def _gemma2(config: Mapping[str, Any], size: Dimensions) -> tuple[Rope, Mapping[str, Any]]:
    _check(size.tie, config, "tie_word_embeddings")  # it has no place for a second word table, for Gemma 3 it has
    caps = {key: config.get(key, usual) for key, usual in (("attn_logit_softcapping", 50.0),
                                                          ("final_logit_softcapping", 30.0))}  # fmt: skip
    for key, value in caps.items():
        _check(type(value) in (int, float) and value > 0, config, key)
    extra = {key: float(value) for key, value in caps.items()}
    return _rope(config, size), extra | _sliding("gemma2", config, size)


def _gemma3(config: Mapping[str, Any], size: Dimensions) -> tuple[Rope, Mapping[str, Any]]:
    """Return Gemma 3's two ropes: layers that look back all the way have one of their own, which alone is stretched."""
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        _check(config.get(key) is None, config, key)
    _check(config.get("partial_rotary_factor") in (None, 1), config, "partial_rotary_factor")
    tables = config.get("rope_parameters") or {}
    _check(isinstance(tables, Mapping) and not set(tables) - {"full_attention", "sliding_attention"}, config,
           "rope_parameters")  # fmt: skip
    full, near = ({**(tables.get(f"{name}_attention") or {})} for name in ("full", "sliding"))
    full |= config.get("rope_scaling") or {}
    _check(not {"partial_rotary_factor"} & {*full, *near}, config, "rope_parameters")
    _check(near.get("rope_type", near.get("type", "default")) == "default", config, "rope_parameters")
    theta = full.get("rope_theta", config.get("rope_theta", 1_000_000.0))
    local = near.get("rope_theta", config.get("rope_local_base_freq", 10_000.0))
    rope = _made(full, theta, size.head_dim)
    return rope, {"rope.freq_base_swa": _made({}, local, size.head_dim).theta} | _sliding("gemma3_text", config, size)


def _sliding(kind: str, config: Mapping[str, Any], size: Dimensions) -> dict[str, Any]:
    """Return the window, after making sure that layers alternate as llama.cpp has it, and that attention is divided by
    what it divides by."""
    _check(not config.get("use_bidirectional_attention"), config, "use_bidirectional_attention")
    every = _PERIOD[kind]
    period = config.get("sliding_window_pattern", every) if kind == "gemma3_text" else every
    names = ("full_attention", "sliding_attention")
    listed = config.get("layer_types")
    if listed is None:
        _check(period == every, config, "sliding_window_pattern")
    else:
        _check(listed == [names[bool((layer + 1) % every)] for layer in range(size.layers)], config, "layer_types")
    wide = size.hidden // size.heads if size.layers == _WIDE_LAYERS[kind] else size.head_dim
    _check(config.get("query_pre_attn_scalar", 256) == wide, config, "query_pre_attn_scalar")
    return {"attention.sliding_window": integer({"sliding_window": config.get("sliding_window", 4096)},
                                                "sliding_window", CONFIG)}  # fmt: skip


def _window(kind: str, config: Mapping[str, Any]) -> int | None:
    """Return how many tokens attention looks back where llama.cpp always looks back all the way, None for all."""
    if kind.startswith("qwen") and config.get("use_sliding_window") is not True:
        return None
    window = config.get("sliding_window", None if kind == "phi3" else 4096)
    return None if window is None else integer({"sliding_window": window}, "sliding_window", CONFIG)


_OWN = {"phi3": _phi3, "gemma2": _gemma2, "gemma3_text": _gemma3}
