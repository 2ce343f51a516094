"""A checkpoint as GGUF lists it: names, order of rows, the number format of every tensor, and the settings that a
program needs to compute with them. Nothing is read; ``gguf_file`` writes it. Knows nothing about tokenizers or files.

Names and keys: ggml-org/ggml ``docs/gguf.md``, and llama.cpp's ``gguf-py/gguf/constants.py``. For Llama and Mistral,
llama.cpp turns neighbouring rows of queries and keys against each other, as Meta does. Gemma's norms are stored less
one; llama.cpp wants them whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.dtypes import Array, to_float32
from backend.weights.gguf_blocks import FORMATS, fitting
from backend.weights.gguf_kinds import Form, check_convertible
from backend.weights.gguf_rope import rope_settings, rope_tensors
from backend.weights.shape import EMBED, FINAL_NORM, HEAD
from backend.weights.split import pairs_from_halves

# Kind -> (formats of a matrix and of the one that scores the words, llama.cpp's number for the mixture: ``llama_ftype``
# in llama.h). The scores decide between words directly and are kept finer, as llama.cpp's own quantiser does.
KINDS: Mapping[str, tuple[str, str, int]] = {
    "f16": ("F16", "F16", 1),
    "q8_0": ("Q8_0", "Q8_0", 7),
    "q4_k": ("Q4_K", "Q6_K", 14),
}
_TOP = {EMBED: "token_embd.weight", FINAL_NORM: "output_norm.weight", HEAD: "output.weight"}
_TURNED = ("self_attn.q_proj", "self_attn.k_proj")


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


def to_gguf_layout(checkpoint: Checkpoint, kind: str) -> tuple[Entry, ...]:
    """Return the tensors of the file in order; ``kind`` is one of ``KINDS``.

    Raises:
        WeightsError: the model cannot be written as GGUF.
    """
    form = check_convertible(checkpoint)
    stored = [(name, tensor) for name, tensor in checkpoint.items() if name != HEAD or not form.size.tie]
    entries = [_entry(name, tensor, form, kind=kind) for name, tensor in stored]
    for name, numbers in rope_tensors(form.rope):
        entries.append(Entry(name, _constant(numbers), "F32", ""))
    return tuple(entries)


def converted_bytes(checkpoint: Checkpoint, kind: str) -> int:
    """Return about how many bytes the file will have, without its head of some megabytes.

    Raises:
        WeightsError: the model cannot be written as GGUF.
    """
    return sum(entry.nbytes for entry in to_gguf_layout(checkpoint, kind))


def _entry(source: str, tensor: Tensor, form: Form, *, kind: str) -> Entry:
    matrix, scores, _ = KINDS[kind]
    if len(tensor.shape) == 2:
        is_scores = source == HEAD or (source == EMBED and form.size.tie)
        target = fitting(scores if is_scores else matrix, tensor.shape[1])
    else:
        target = "F32"
    if form.kind.offset and source.endswith("norm.weight"):
        tensor = _plus_one(tensor)
    if source in _TOP:
        return Entry(_TOP[source], tensor, target, source)
    _, _, layer, *middle, ending = source.split(".")
    part = ".".join(middle)
    if form.kind.turned and part in _TURNED:
        tensor = pairs_from_halves(tensor, form.size.head_dim)
    return Entry(f"blk.{layer}.{form.kind.parts[part]}.{ending}", tensor, target, source)


def _plus_one(tensor: Tensor) -> Tensor:
    """Return a vector of numbers with one added to each, in float32 as transformers does when it computes."""

    def rows(start: int, stop: int) -> Array:
        return to_float32(tensor.rows(start, stop), tensor.dtype) + np.float32(1)

    return Tensor("F32", tensor.shape, rows, tensor.unit, tensor.files)


def _constant(numbers: Array) -> Tensor:
    def rows(start: int, stop: int) -> Array:
        return numbers[start:stop].copy()

    return Tensor("F32", numbers.shape, rows)


def settings(form: Form, *, kind: str, name: str) -> dict[str, Any]:
    """Return key -> value of the file's settings; the type of a Python number is the type in the file: int is uint32,
    float is float32."""
    size = form.size
    own: dict[str, Any] = {
        "vocab_size": size.vocab,
        "context_length": size.context,
        "embedding_length": size.hidden,
        "block_count": size.layers,
        "feed_forward_length": size.ffn,
        "attention.head_count": size.heads,
        "attention.head_count_kv": size.kv_heads,
        "attention.key_length": size.head_dim,
        "attention.value_length": size.head_dim,
        "attention.layer_norm_rms_epsilon": form.norm_eps,
        **rope_settings(form.rope, size.context),
        **form.extra,
    }
    return {
        "general.name": name,
        "general.file_type": KINDS[kind][2],
        "general.quantization_version": 2,
        **{f"{form.arch}.{key}": value for key, value in own.items()},
    }
