"""Running what is no Llama: T5 (FastChat-T5) and a few decoders, with transformers' own classes for them.

Their config.json goes to transformers as the weights reader left it: without hooks for code, and only for kinds that
are known to be built from plain numbers. Knows nothing about devices or text.
"""

from collections.abc import Mapping
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, T5ForConditionalGeneration

from backend.errors import WeightsError
from backend.weights.as_is import T5, AsIs
from backend.weights.disk import integer
from backend.weights.shape import CONFIG, Shape, token_id

_DECODERS = ("mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")


def model_of(shape: Shape) -> tuple[Any, Any]:
    """Return the class and the configuration of a model of another kind.

    Raises:
        WeightsError: a kind that this engine does not run, or a config.json that transformers does not take.
    """
    found = _known(shape)
    try:
        config = AutoConfig.for_model(found.kind, **{k: v for k, v in found.config.items() if k != "model_type"})
    except Exception as problem:  # what a foreign config.json makes of a class's checks cannot be foreseen
        raise WeightsError("finish.config_refused", kind=found.kind, what=str(problem)[:200]) from problem
    return (T5ForConditionalGeneration if found.kind == T5 else MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]), config


def cache_per_token(shape: Shape) -> int:
    """Return how many numbers, keys and values together, one token of context keeps."""
    found = _known(shape)
    config = found.config
    if found.kind == T5:
        layers = integer({"n": config.get("num_decoder_layers") or config.get("num_layers")}, "n", CONFIG, high=1000)
        heads = integer(config, "num_heads", CONFIG, high=4096)
        return 2 * 2 * layers * heads * integer(config, "d_kv", CONFIG, high=4096)  # of the reply, and of the prompt
    heads = integer(config, "num_attention_heads", CONFIG, high=4096)
    kv_heads = integer(_or(config, "num_key_value_heads", heads), "n", CONFIG, high=4096)
    width = integer(_or(config, "head_dim", integer(config, "hidden_size", CONFIG) // heads), "n", CONFIG, high=4096)
    return 2 * integer(config, "num_hidden_layers", CONFIG, high=1000) * kv_heads * width


def attention(shape: Shape) -> str:
    """Return which of transformers' ways of computing attention a model needs: Gemma 2 caps its scores, so only the
    plain one will do.
    """
    return "eager" if isinstance(shape, AsIs) and shape.kind == "gemma2" else "sdpa"


def decoder_start(shape: Shape) -> int | None:
    """Return the token that a decoder of its own begins with, or None where the prompt is simply continued."""
    if not isinstance(shape, AsIs) or shape.kind != T5:
        return None
    return token_id(shape.config.get("decoder_start_token_id")) or 0


def _known(shape: Shape) -> AsIs:
    if not isinstance(shape, AsIs) or shape.kind not in (T5, *_DECODERS):
        kind = shape.kind if isinstance(shape, AsIs) else "?"
        raise WeightsError("finish.not_runnable", kind=kind[:60], known=", ".join(("llama", T5, *_DECODERS)))
    return shape


def _or(config: Mapping[str, Any], key: str, usual: int) -> Mapping[str, Any]:
    value = config.get(key)
    return {"n": usual if value is None else value}
