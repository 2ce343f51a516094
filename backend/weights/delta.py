"""Adding a delta (tuned minus base, as Vicuna's v0 and v1.1 were published) to its base, lazily.

A v0 delta has one embedding row more than the base, for ``[PAD]``; that row of the base counts as zero. What does not
belong together is refused before anything is written. Knows nothing about files or output.

Reference: lm-sys/FastChat, ``fastchat/model/apply_delta.py`` (v1.1) and its state at v0.1.10 (v0).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from backend.errors import WeightsError
from backend.text import Message
from backend.weights.arithmetic import add
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.dtypes import CONFIG_NAMES, Array, to_float32
from backend.weights.shape import EMBED, FINAL_NORM, HEAD

# Norm weights of a trained model are of the order of one, those of a difference of two models are near zero: about 1e-3
# in Vicuna's. Anything below this is no model that could run.
_DELTA_NORM = 0.05
_SAMPLE_ROWS = 256

# What must be equal, and its name in config.json, which people know.
_SIZES = (
    ("hidden", "hidden_size"),
    ("layers", "num_hidden_layers"),
    ("ffn", "intermediate_size"),
    ("heads", "num_attention_heads"),
    ("kv_heads", "num_key_value_heads"),
)


def add_delta(base: Checkpoint, delta: Checkpoint) -> Checkpoint:
    """Return base + delta, in the base's dtype, one float32 sum per number rounded once.

    Raises:
        WeightsError: another size, a delta that is a whole model, a base that is a delta, tensors that do not match.
    """
    _check_sizes(base, delta)
    _check_roles(base, delta)
    tensors = {name: _sum(base[name], delta[name]) for name in base}
    notes = [*base.notes, *delta.notes]
    if delta.shape.vocab > base.shape.vocab:
        notes.append(Message("weights.found.extra_rows", {"rows": delta.shape.vocab, "base": base.shape.vocab}))
    if base.dtype != delta.dtype:
        names = {"base": CONFIG_NAMES[base.dtype], "delta": CONFIG_NAMES[delta.dtype]}
        notes.append(Message("weights.found.delta_dtype", names))
    return replace(
        base,
        tensors=tensors,
        shape=replace(base.shape, vocab=delta.shape.vocab),
        files=base.files + delta.files,
        doing="weights.doing.add_delta",
        delta_rows=delta.shape.vocab - base.shape.vocab,
        notes=tuple(notes),
        made_of=(*base.made_of, "+delta", *delta.made_of),
        checks=base.checks + delta.checks,
    )


def looks_like_delta(checkpoint: Checkpoint) -> bool:
    """Tell whether these are differences and not weights that could run; reads the last norm only."""
    return _mean_norm(checkpoint) < _DELTA_NORM


def _mean_norm(checkpoint: Checkpoint) -> float:
    return float(np.abs(_sample(checkpoint, FINAL_NORM)).mean())


def _sample(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    """Return the first rows of a tensor: enough to tell what it is."""
    tensor = checkpoint[name]
    return to_float32(tensor.rows(0, min(tensor.length, _SAMPLE_ROWS)), tensor.dtype)


def _check_sizes(base: Checkpoint, delta: Checkpoint) -> None:
    for field, name in _SIZES:
        ours, theirs = getattr(base.shape, field), getattr(delta.shape, field)
        if ours != theirs:
            raise WeightsError("weights.delta_other_size", what=name, base=ours, delta=theirs)
    if delta.shape.vocab < base.shape.vocab:
        raise WeightsError("weights.delta_fewer_rows", base=base.shape.vocab, delta=delta.shape.vocab)
    for name in base:
        if name not in delta:
            raise WeightsError("weights.delta_lacks", name=name)
        if base[name].shape[1:] != delta[name].shape[1:]:
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
    ours, theirs = _sample(base, name), _sample(delta, name)
    return float(np.abs(theirs - ours).sum()) < float(np.abs(theirs).sum())


def _sum(base: Tensor, delta: Tensor) -> Tensor:
    def rows(start: int, stop: int) -> Array:
        left = _rows_or_zeros(base, start, stop)
        return add(left, delta.rows(start, stop), left_dtype=base.dtype, right_dtype=delta.dtype)

    return Tensor(base.dtype, delta.shape, rows, base.unit)


def _rows_or_zeros(tensor: Tensor, start: int, stop: int) -> Array:
    """Return rows of a tensor; those after its end are zero. They are added, not copied: -0.0 becomes +0.0."""
    if stop <= tensor.length:
        return tensor.rows(start, stop)
    known = tensor.rows(min(start, tensor.length), tensor.length)
    zeros = np.zeros((stop - max(start, tensor.length), *tensor.shape[1:]), known.dtype)
    return np.concatenate([known, zeros]) if len(known) else zeros
