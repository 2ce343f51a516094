"""Meta's params.json: read with checks, and written as Meta writes it. Knows nothing about tensors or shards.

The file is input, not configuration: known keys are taken one by one, with type and range checks, and everything else
is ignored. Source of the formulas: meta-llama/llama and llama-models (``model.py``).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.weights.disk import integer, number, read_json
from backend.weights.meta_releases import LLAMA12_THETA, Release, Size, find_size, is_llama3
from backend.weights.shape import ModelShape

PARAMS = "params.json"

# Keys of checkpoints whose tensors are not plain Llama text weights, and the error that says what they are.
_FOREIGN: Mapping[str, str] = {
    "vision_chunk_size": "meta.is_vision",
    "vision_max_num_chunks": "meta.is_vision",
    "vision_num_cross_attention_layers": "meta.is_vision",
    "vision_model": "meta.is_vision",
    "quantization_args": "meta.is_quantised",
    "lora_args": "meta.is_lora",
    "hidden_dim": "meta.is_pruned",
    "rope_freq_base": "meta.is_pruned",
    "moe": "meta.is_mixture",
    "moe_args": "meta.is_mixture",
}


def read_params(folder: Path) -> Mapping[str, Any]:
    """Return the table in a folder's params.json; some releases wrap it in {"model": ...}.

    Raises:
        WeightsError: no such file, not a table, or that of a vision, quantised, pruned or mixture model.
    """
    data = read_json(folder / PARAMS)
    inner = data.get("model")
    table: Mapping[str, Any] = inner if isinstance(inner, dict) else data
    foreign = next((key for key in _FOREIGN if table.get(key) not in (None, -1)), None)
    if foreign is not None:
        raise WeightsError(_FOREIGN[foreign], file=PARAMS, name=foreign)
    return table


def heads_from_params(data: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return width, query heads and key heads (as many where params.json does not say).

    Raises:
        WeightsError: absent, out of range, or not divisible by each other.
    """
    dim, heads = integer(data, "dim", PARAMS), integer(data, "n_heads", PARAMS, high=4096)
    kv_heads = integer(data, "n_kv_heads", PARAMS, high=4096) if data.get("n_kv_heads") is not None else heads
    if dim % heads or heads % kv_heads or (dim // heads) % 2:
        raise WeightsError("weights.params_do_not_fit", dim=dim, heads=heads, kv_heads=kv_heads)
    return dim, heads, kv_heads


def layers_from_params(data: Mapping[str, Any]) -> int:
    """Return the number of layers."""
    return integer(data, "n_layers", PARAMS, high=1000)


def size_from_params(data: Mapping[str, Any]) -> Size | None:
    """Return the published size that params.json describes, whatever the tensors are."""
    dim, heads, kv_heads = heads_from_params(data)
    ffn = ffn_from_params(data)
    return find_size(dim=dim, layers=layers_from_params(data), heads=heads, kv_heads=kv_heads, ffn=ffn or 0)


def rope_from_params(data: Mapping[str, Any]) -> tuple[float, bool]:
    """Return the base of the position encoding, and whether it is scaled as in Llama 3.1 and later."""
    stated = data.get("rope_theta") is not None
    theta = number(data, "rope_theta", PARAMS, low=1, high=1e12) if stated else LLAMA12_THETA
    return theta, bool(data.get("use_scaled_rope"))


def norm_eps_from_params(data: Mapping[str, Any]) -> float:
    """Return the number that the norms add before they divide."""
    return number(data, "norm_eps", PARAMS, low=1e-12, high=0.1)


def shape_from_params(data: Mapping[str, Any], *, ffn: int, vocab: int, release: Release) -> ModelShape:
    """Build a shape from params.json and what the tensors say: rows of w1 and of the embeddings.

    Raises:
        WeightsError: a required key is absent or out of range, or sizes do not fit each other.
    """
    dim, heads, kv_heads = heads_from_params(data)
    copies = release.size.copies if release.size else 1
    stated = data.get("vocab_size", -1)
    if stated not in (-1, vocab):
        raise WeightsError("weights.vocab_differs", file=PARAMS, stated=str(stated)[:20], rows=vocab)
    theta, scaled = rope_from_params(data)
    llama3 = is_llama3(theta, vocab)
    return ModelShape(
        hidden=dim,
        layers=layers_from_params(data),
        heads=heads,
        kv_heads=kv_heads // copies,
        head_dim=dim // heads,
        ffn=ffn,
        vocab=vocab,
        norm_eps=norm_eps_from_params(data),
        rope_theta=theta,
        rope_scaling=llama3_scaling(dim) if scaled else None,
        max_positions=release.positions,
        bos=128000 if llama3 else 1,
        eos=(128001,) if llama3 else (2,),
    )


def llama3_scaling(dim: int) -> dict[str, Any]:
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
    """Return the feed-forward size by Meta's formula, or None where params.json does not tell."""
    dim, multiple = data.get("dim"), data.get("multiple_of", 256)
    multiplier = data.get("ffn_dim_multiplier") or 1.0
    if not isinstance(dim, int) or not isinstance(multiple, int) or multiple < 1:
        return None
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 < multiplier < 1000:
        return None
    return _ffn(dim, multiple, multiplier)


def _ffn(dim: int, multiple: int, multiplier: float) -> int:
    return multiple * math.ceil(int(multiplier * int(8 * dim / 3)) / multiple)


def params_bytes(shape: ModelShape) -> bytes:
    """Return the params.json of a shape: the bytes that Meta published where it is a size of theirs.

    LLaMA 1 and Llama 2 leave the vocabulary to the tokenizer (-1); the files of Llama 2 end in a newline.

    Raises:
        WeightsError: the position encoding is stretched in a way that params.json has no word for.
    """
    if shape.rope_scaling is not None and dict(shape.rope_scaling) != llama3_scaling(shape.hidden):
        kind = shape.rope_scaling.get("rope_type", shape.rope_scaling.get("type"))
        raise WeightsError("meta.cannot_scale", kind=str(kind)[:60])
    scaled, grouped = shape.rope_scaling is not None, shape.kv_heads != shape.heads
    multiple, multiplier = _ffn_rule(shape)
    ffn = {"ffn_dim_multiplier": multiplier} if multiplier is not None else {}
    kv_heads = {"n_kv_heads": shape.kv_heads} if grouped else {}
    theta = {"rope_theta": shape.rope_theta} if shape.rope_theta != LLAMA12_THETA else {}
    scaling = {"use_scaled_rope": True} if scaled else {}
    if is_llama3(shape.rope_theta, shape.vocab):
        table = {"dim": shape.hidden, "n_layers": shape.layers, "n_heads": shape.heads, **kv_heads,
                 "vocab_size": shape.vocab, **ffn, "multiple_of": multiple, "norm_eps": shape.norm_eps, **theta,
                 **scaling}  # fmt: skip
        return json.dumps(table).encode()
    table = {"dim": shape.hidden, "multiple_of": multiple, **ffn, "n_heads": shape.heads, **kv_heads,
             "n_layers": shape.layers, "norm_eps": shape.norm_eps, "vocab_size": -1, **theta, **scaling}  # fmt: skip
    llama2 = shape.norm_eps == 1e-5 and (grouped or shape.hidden != 8192)  # LLaMA 65B has that norm_eps too
    return json.dumps(table).encode() + (b"\n" if llama2 else b"")


def _ffn_rule(shape: ModelShape) -> tuple[int, float | None]:
    """Return ``multiple_of`` and ``ffn_dim_multiplier`` from which Meta's formula gives the feed-forward size."""
    size = find_size(dim=shape.hidden, layers=shape.layers, heads=shape.heads, kv_heads=shape.kv_heads, ffn=shape.ffn)
    if size is not None:
        return size.multiple_of, size.multiplier
    multiples = [1 << power for power in range(12, -1, -1)]
    for multiple in (256, *multiples):
        if _ffn(shape.hidden, multiple, 1.0) == shape.ffn:
            return multiple, None
    plain = int(8 * shape.hidden / 3)
    for digits in range(1, 10):  # the shortest number that does
        multiplier = round((shape.ffn - 0.5) / plain, digits)
        for multiple in multiples:
            if multiplier > 0 and _ffn(shape.hidden, multiple, multiplier) == shape.ffn:
                return multiple, multiplier
    return 1, (shape.ffn + 0.5) / plain
