"""Models of other kinds than Llama (T5, Mistral, Qwen, Gemma and so on), which pass through as they are.

Their tensors keep their names, their config.json keeps its keys; only what would make another program load code, or
name this upload's author's disk, is left out. Knows nothing about files: the reader of Hugging Face folders asks it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backend.errors import WeightsError
from backend.text import Message
from backend.weights.checkpoint import Tensor
from backend.weights.disk import integer
from backend.weights.dtypes import FLOATS
from backend.weights.shape import CONFIG, Shape, token_id, token_ids

# Keys with which a config.json makes a program fetch or run code. Those that start with "_" are a library's own notes.
_HOOKS = ("auto_map", "trust_remote_code", "custom_pipelines", "attn_implementation", "experts_implementation")
# What the table of words is called, by its last parts.
_EMBEDDINGS = ("embed_tokens.weight", "shared.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
T5 = "t5"
_T5_POSITIONS = 2048  # positions are relative: n_positions is no limit, and FastChat-T5 was trained on so many
_T5_PARTS = ("shared.weight", "encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight")
# Copies of shared.weight. Some training runs saved wrong ones, and the model only ever uses shared.weight.
_T5_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_T5_HEAD = "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class AsIs(Shape):
    """A model that is not taken apart: its kind (``model_type``) and its config.json without hooks for code."""

    kind: str
    config: Mapping[str, Any] = field(repr=False)


def as_is(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[AsIs, dict[str, Tensor], list[Message]]:
    """Return what is known of a model of another kind, the tensors to keep, and what is worth saying.

    Raises:
        WeightsError: it does not say what it is, is quantised, lacks its main parts, or is not mostly weights.
    """
    kind = config.get("model_type")
    table = _embeddings(tensors)
    if not isinstance(kind, str) or table is None:
        raise WeightsError("weights.not_llama", kind=str(kind)[:60])
    if config.get("quantization_config") is not None:
        raise WeightsError("weights.quantised")
    notes = [Message("finish.found.as_is", {"kind": kind[:60]})]
    cleaned = without_hooks(config)
    if config.get("auto_map"):
        notes.append(Message("finish.found.code_dropped"))
    shape = AsIs(
        vocab=table.length,
        max_positions=_positions(config),
        tie=config.get("tie_word_embeddings") is True,
        bos=token_id(config.get("bos_token_id")),
        eos=token_ids(config.get("eos_token_id")),
        kind=kind,
        config=cleaned,
    )
    kept = dict(tensors)
    if kind == T5:
        shape, kept = _t5(shape, kept)
    _check_numbers(kept)
    return shape, kept, notes


def without_hooks(value: Any) -> Any:
    """Return a JSON value without the keys that make a program fetch or run code, at any depth."""
    if isinstance(value, dict):
        return {
            key: without_hooks(entry) for key, entry in value.items() if key not in _HOOKS and not key.startswith("_")
        }
    return [without_hooks(entry) for entry in value] if isinstance(value, list) else value


def _embeddings(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the table of words that goes in, under whatever name."""
    for ending in _EMBEDDINGS:
        found = next((name for name in tensors if name == ending or name.endswith(f".{ending}")), None)
        if found is not None:
            return tensors[found]
    return None


def _positions(config: Mapping[str, Any]) -> int:
    if config.get("model_type") == T5:
        return _T5_POSITIONS
    inner = config.get("text_config")
    for table in (config, inner if isinstance(inner, dict) else {}):
        for key in _POSITIONS:
            if table.get(key) is not None:
                return integer(table, key, CONFIG)
    return 2048


def _t5(shape: AsIs, tensors: dict[str, Tensor]) -> tuple[AsIs, dict[str, Tensor]]:
    """Leave out the copies of ``shared.weight``. Flan-T5 has a head of its own; others share that too."""
    untied = shape.config.get("tie_word_embeddings") is False
    lost = next((name for name in (*_T5_PARTS, *([_T5_HEAD] if untied else [])) if name not in tensors), None)
    if lost is not None:
        raise WeightsError("weights.tensor_missing", name=lost)
    kept = {name: tensor for name, tensor in tensors.items() if name not in _T5_COPIES}
    return replace(shape, tie=_T5_HEAD not in kept), kept


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is quantised without saying so; a few whole numbers (positions, masks) are all right."""
    whole = {name: tensor for name, tensor in tensors.items() if tensor.dtype not in FLOATS}
    if sum(tensor.nbytes for tensor in whole.values()) * 2 > sum(tensor.nbytes for tensor in tensors.values()):
        name = max(whole, key=lambda name: whole[name].nbytes)
        raise WeightsError("weights.dtype_unknown", name=name[:120], dtype=whole[name].dtype)
