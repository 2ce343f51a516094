"""A Llama checkpoint as GGUF lists it: names, order of heads, the number format of every tensor, and the settings that
a program needs to compute with them. Nothing is read; ``gguf_file`` writes it. Knows nothing about tokenizers or files.

Names and keys: ggml-org/ggml ``docs/gguf.md``, and llama.cpp's ``gguf-py/gguf/constants.py``. llama.cpp turns
neighbouring rows of queries and keys against each other, as Meta does.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.errors import WeightsError
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.dtypes import Array
from backend.weights.gguf_blocks import FORMATS, fitting
from backend.weights.shape import EMBED, FINAL_NORM, HEAD, ModelShape
from backend.weights.split import pairs_from_halves

# Kind -> (formats of a matrix and of the one that scores the words, llama.cpp's number for the mixture: ``llama_ftype``
# in llama.h). The scores decide between words directly and are kept finer, as llama.cpp's own quantiser does.
KINDS: Mapping[str, tuple[str, str, int]] = {
    "f16": ("F16", "F16", 1),
    "q8_0": ("Q8_0", "Q8_0", 7),
    "q4_k": ("Q4_K", "Q6_K", 14),
}
_TOP = {EMBED: "token_embd.weight", FINAL_NORM: "output_norm.weight", HEAD: "output.weight"}
_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_TURNED = ("self_attn.q_proj", "self_attn.k_proj")
_ROPE_KEYS: Mapping[str, frozenset[str]] = {
    "linear": frozenset({"factor"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
}


@dataclass(frozen=True)
class Entry:
    """One tensor of the file: its name there, the weights in the order they have there, its format, and the name it
    has in the model folder (empty: it is not in there)."""

    name: str
    tensor: Tensor
    format: str
    source: str

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        return FORMATS[self.format].nbytes(self.tensor.shape)


def check_convertible(checkpoint: Checkpoint) -> ModelShape:
    """Return the shape of a model that can be written as GGUF.

    Raises:
        WeightsError: not a Llama, or one that stretches positions in a way llama.cpp cannot compute.
    """
    shape = checkpoint.llama
    scaling = shape.rope_scaling or {}
    kind = str(scaling.get("rope_type", "default"))
    if kind != "default" and (kind not in _ROPE_KEYS or set(scaling) - _ROPE_KEYS[kind] - {"rope_type"}):
        raise WeightsError("gguf.rope", kind=kind[:60])
    wanted = _ROPE_KEYS.get(kind, frozenset())
    if not all(type(scaling.get(key)) in (int, float) and scaling[key] > 0 for key in wanted):
        raise WeightsError("gguf.rope", kind=kind[:60])
    return shape


def to_gguf_layout(checkpoint: Checkpoint, kind: str) -> tuple[Entry, ...]:
    """Return the tensors of the file in order; ``kind`` is one of ``KINDS``.

    Raises:
        WeightsError: the model cannot be written as GGUF.
    """
    shape = check_convertible(checkpoint)
    entries = [_entry(name, tensor, shape, kind=kind) for name, tensor in checkpoint.items()]
    return (*entries, *_rope_factors(shape))


def converted_bytes(checkpoint: Checkpoint, kind: str) -> int:
    """Return about how many bytes the file will have, without its head of some megabytes.

    Raises:
        WeightsError: the model cannot be written as GGUF.
    """
    return sum(entry.nbytes for entry in to_gguf_layout(checkpoint, kind))


def _entry(source: str, tensor: Tensor, shape: ModelShape, *, kind: str) -> Entry:
    matrix, scores, _ = KINDS[kind]
    if len(tensor.shape) == 2:
        is_scores = source == HEAD or (source == EMBED and shape.tie)
        target = fitting(scores if is_scores else matrix, tensor.shape[1])
    else:
        target = "F32"
    if source in _TOP:
        return Entry(_TOP[source], tensor, target, source)
    _, _, layer, *middle, ending = source.split(".")
    part = ".".join(middle)
    if part in _TURNED:
        tensor = pairs_from_halves(tensor, shape.head_dim)
    return Entry(f"blk.{layer}.{_PARTS[part]}.{ending}", tensor, target, source)


def _rope_factors(shape: ModelShape) -> Iterator[Entry]:
    """Yield what llama.cpp divides the turning speeds by, for Llama 3.1's scaling (transformers,
    ``_compute_llama3_parameters``): slow ones by ``factor``, fast ones not at all, those between by a mixture."""
    scaling = shape.rope_scaling or {}
    if scaling.get("rope_type") != "llama3":
        return
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(scaling["original_max_position_embeddings"])
    speeds = shape.rope_theta ** -(np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim)
    turns = original * speeds / (2 * math.pi)  # full turns within the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    divided = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)

    def rows(start: int, stop: int) -> Array:
        return divided[start:stop].copy()

    yield Entry("rope_freqs.weight", Tensor("F32", divided.shape, rows), "F32", "")


def settings(shape: ModelShape, *, kind: str, name: str) -> dict[str, Any]:
    """Return key -> value of the file's settings; the type of a Python number is the type in the file: int is uint32,
    float is float32."""
    table: dict[str, Any] = {
        "general.name": name,
        "general.file_type": KINDS[kind][2],
        "general.quantization_version": 2,
        "llama.vocab_size": shape.vocab,
        "llama.context_length": shape.max_positions,
        "llama.embedding_length": shape.hidden,
        "llama.block_count": shape.layers,
        "llama.feed_forward_length": shape.ffn,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.key_length": shape.head_dim,
        "llama.attention.value_length": shape.head_dim,
        "llama.attention.layer_norm_rms_epsilon": shape.norm_eps,
        "llama.rope.dimension_count": shape.head_dim,
        "llama.rope.freq_base": shape.rope_theta,
    }
    scaling = shape.rope_scaling or {}
    if scaling.get("rope_type") in ("linear", "yarn"):
        table["llama.rope.scaling.type"] = scaling["rope_type"]
        table["llama.rope.scaling.factor"] = float(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        table["llama.rope.scaling.original_context_length"] = int(scaling["original_max_position_embeddings"])
    return table
