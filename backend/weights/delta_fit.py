"""Whether a delta and a base belong together, from settings, sizes and a few rows; nothing is written before this.

Knows nothing about how a delta is added.
"""

import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from backend.errors import WeightsError
from backend.text import Message
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import read_json
from backend.weights.dtypes import to_float32
from backend.weights.generation import generation
from backend.weights.provenance import read_cria_json
from backend.weights.shape import CONFIG, EMBED, FINAL_NORM, HEAD, ModelShape, shape_from_config

# Norm weights of a trained model are of the order of one, those of a difference of two models are near zero: about 1e-3
# in Vicuna's. Anything below this is no model that could run.
_DELTA_NORM = 0.05
_EARLY_NORM = re.compile(r"model\.layers\.[0-3]\.(input|post_attention)_layernorm\.weight")
_HALF = 0.5
_SAMPLE_ROWS = 256
_SAMPLES = (EMBED, "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight")
# A float16 difference of two float16 models lies on the same grid as they do, so that 88 to 99 % of the sums with the
# right base need no rounding; with another base of the same size it is 62 to 70 % (random models of usual spreads).
_EXACT = 0.78
_PICTURES = ("model.mm_projector.", "model.vision_tower.")
# Rows of models that were tuned already: 32000 and a few special tokens, or Chinese-LLaMA-Alpaca's.
_BASE_ROWS, _FEW, _CHINESE_ROWS = 32000, 16, (49953, 49954)
_MARKS = 3  # <unk>, <s>, </s> come first in every LLaMA's vocabulary
_V0, _V11 = "vicuna-v0", "vicuna-v1.1"

# What must be equal, and its name in config.json, which people know.
_SIZES = (
    ("hidden", "hidden_size"),
    ("layers", "num_hidden_layers"),
    ("ffn", "intermediate_size"),
    ("heads", "num_attention_heads"),
    ("kv_heads", "num_key_value_heads"),
)


def text_part(delta: Checkpoint) -> tuple[Checkpoint, list[Message]]:
    """Return the language model of a delta. What LLaVA's has for pictures is left out: Cria makes text models.

    Raises:
        WeightsError: a delta of a model of another kind.
    """
    pictures = [name for name in delta if name.startswith(_PICTURES)]
    if isinstance(delta.shape, ModelShape) or not pictures or EMBED not in delta:
        return delta, []
    settings = {**read_json(delta.folder / CONFIG), "model_type": "llama"}
    shape = shape_from_config(settings, vocab=delta[EMBED].length)
    tensors = {name: delta[name] for name, _ in shape.expected() if name in delta}
    left = next((name for name in delta if name not in tensors and name not in pictures), None)
    if left is not None:
        raise WeightsError("weights.delta_extra", name=left[:120])
    notes = tuple(note for note in delta.notes if note.key != "finish.found.as_is")
    text = replace(delta, tensors=tensors, shape=shape, notes=notes)
    return text, [Message("delta.found.pictures", {"count": len(pictures), "name": pictures[0][:120]})]


def check_delta(base: Checkpoint, delta: Checkpoint) -> list[Message]:
    """Refuse what cannot be meant, and return what should be said about the rest.

    Raises:
        WeightsError: another size or generation, roles mixed up, a base that is no plain base.
    """
    _check_sizes(base, delta)
    _check_tensors(base, delta)
    _check_roles(base, delta)
    _check_plain(base)
    ours, theirs = generation(base.llama), generation(delta.llama)
    if ours and theirs and ours != theirs:
        raise WeightsError(
            "delta.other_generation",
            base=ours,
            delta=theirs,
            base_eps=f"{base.llama.norm_eps:g}",
            delta_eps=f"{delta.llama.norm_eps:g}",
            base_positions=base.llama.max_positions,
            delta_positions=delta.llama.max_positions,
        )
    notes = []
    if base.llama.max_positions != delta.llama.max_positions:
        values = {"base": base.llama.max_positions, "delta": delta.llama.max_positions}
        notes.append(Message("delta.found.positions", values))
    exact = _exact_share(base, delta)
    if exact is not None and exact < _EXACT:
        notes.append(Message("delta.found.off_grid", {"share": exact}))
    return notes


def check_version(merged: Checkpoint, *, template: str | None, rule: str = "auto") -> None:
    """Refuse a delta of another version of Vicuna than the prompt template that was asked for.

    The versions differ by exactly one row, and with each other's template they never stop; more rows than that are
    another model's, of either (LLaVA). Whoever names a rule for the extra rows knows the delta, and is believed.

    Raises:
        WeightsError: v0 where v1.1 was asked for, or the other way round.
    """
    rows, extra = merged.llama.vocab, merged.delta_rows
    if rule != "auto" or (template, extra) not in ((_V11, 1), (_V0, 0)):
        return
    raise WeightsError("delta.is_v0" if extra else "delta.is_v11", rows=rows, template=str(template))


def check_alone(base: Checkpoint) -> None:
    """Refuse a base to which nothing is added though it is a delta.

    Raises:
        WeightsError: it is one.
    """
    if isinstance(base.shape, ModelShape) and looks_like_delta(base):
        raise WeightsError("delta.alone", folder=str(base.folder))


def looks_like_delta(checkpoint: Checkpoint) -> bool:
    """Tell whether these are differences and not weights that could run; reads a few norms only.

    Norm weights of a trained Llama are positive, with hardly an exception; those of a difference have either sign.
    """
    norms = [name for name in checkpoint if _EARLY_NORM.fullmatch(name)]
    return _mean_norm(checkpoint) < _DELTA_NORM or any(
        float((_sample(checkpoint, name) < 0).mean()) > _HALF for name in norms
    )


def _mean_norm(checkpoint: Checkpoint) -> float:
    return float(np.abs(_sample(checkpoint, FINAL_NORM)).mean())


def _sample(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    """Return the first rows of a tensor: enough to tell what it is."""
    tensor = checkpoint[name]
    return to_float32(tensor.rows(0, min(tensor.length, _SAMPLE_ROWS)), tensor.dtype)


def _samples(base: Checkpoint, delta: Checkpoint, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the first rows that both have; the delta may have more of them."""
    ours, theirs = _sample(base, name), _sample(delta, name)
    return ours, theirs[: len(ours)]


def _check_sizes(base: Checkpoint, delta: Checkpoint) -> None:
    for field, name in _SIZES:
        ours, theirs = getattr(base.llama, field), getattr(delta.llama, field)
        if ours != theirs:
            raise WeightsError("weights.delta_other_size", what=name, base=ours, delta=theirs)
    if delta.llama.vocab < base.llama.vocab:
        raise WeightsError("weights.delta_fewer_rows", base=base.llama.vocab, delta=delta.llama.vocab)


def _check_tensors(base: Checkpoint, delta: Checkpoint) -> None:
    for name in base:
        if name not in delta or base[name].shape[1:] != delta[name].shape[1:]:
            raise WeightsError("weights.delta_lacks", name=name)
        if base[name].length != delta[name].length and name not in (EMBED, HEAD):
            raise WeightsError("weights.delta_lacks", name=name)
    extra = next((name for name in delta if name not in base), None)
    if extra is not None:
        raise WeightsError("weights.delta_extra", name=extra)


def _check_roles(base: Checkpoint, delta: Checkpoint) -> None:
    """Refuse a delta that is a finished model, and a base that is a delta: both would run and talk nonsense."""
    if base.files == delta.files:
        raise WeightsError("weights.delta_is_base", folder=str(delta.folder))
    if looks_like_delta(base) or _mean_norm(base) * 4 < _mean_norm(delta):
        raise WeightsError("weights.base_is_delta", folder=str(base.folder))
    if all(_nearer_to_base(base, delta, name) for name in (FINAL_NORM, EMBED, "model.layers.0.mlp.gate_proj.weight")):
        raise WeightsError("weights.delta_is_model", folder=str(delta.folder))


def _nearer_to_base(base: Checkpoint, delta: Checkpoint, name: str) -> bool:
    """Tell whether these numbers are nearer to the base's than to zero: so is a relative of the base, no difference
    is."""
    ours, theirs = _samples(base, delta, name)
    return float(np.abs(theirs - ours).sum()) < float(np.abs(theirs).sum())


def _check_plain(base: Checkpoint) -> None:
    """Refuse a base that was tuned or extended already: by its rows, its added tokens, or what Cria wrote about it."""
    rows, folder = base.llama.vocab, base.folder
    if _BASE_ROWS < rows < _BASE_ROWS + _FEW or rows in _CHINESE_ROWS:
        raise WeightsError("delta.base_tuned_rows", rows=rows, folder=str(folder))
    tokens = read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
    # Some conversions list <unk>, <s> and </s> there too, which every base has.
    added = sorted(text for text, number in tokens.items() if type(number) is int and _MARKS <= number < rows)
    if added:
        raise WeightsError("delta.base_tuned_tokens", token=added[0][:40], folder=str(folder))
    made = read_cria_json(folder)
    if made is not None and any(origin.role != "base" for origin in made.origins):
        raise WeightsError("delta.base_made_here", folder=str(folder))


def _exact_share(base: Checkpoint, delta: Checkpoint) -> float | None:
    """Return the share of some sums that float16 holds without rounding; None where the grid tells nothing."""
    if base.dtype != "F16" or delta.dtype != "F16":
        return None
    exact = total = 0
    for name in _SAMPLES:
        ours, theirs = _samples(base, delta, name)
        sums = ours + theirs
        exact += int((sums.astype(np.float16).astype(np.float32) == sums).sum())
        total += sums.size
    return exact / total
