"""Adding a delta (tuned minus base, as Vicuna, LLaVA and Stanford's Alpaca were published) to its base, lazily.

A delta may have more embedding rows than its base; what they are added to is its rule. What does not belong together
is refused by ``delta_fit`` before anything is written. Knows nothing about files or output.

References: lm-sys/FastChat ``fastchat/model/apply_delta.py`` (v1.1) and its state at v0.1.10 (v0: rows of zero);
tatsu-lab/stanford_alpaca ``weight_diff.py`` (all in float32, the row for [PAD] is the mean of the others);
haotian-liu/LLaVA ``llava/model/apply_delta.py`` (more rows, and a projector for pictures).
"""

from dataclasses import replace

from backend.errors import UsageError
from backend.text import Message
from backend.weights.arithmetic import add
from backend.weights.cast import cast_tensor
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.delta_fit import check_delta, text_part
from backend.weights.dtypes import CONFIG_NAMES, Array
from backend.weights.shape import ModelShape
from backend.weights.vocabulary import Fill, extended

RULES = ("auto", "zero", "mean")


def add_delta(base: Checkpoint, delta: Checkpoint, *, rule: str = "auto") -> Checkpoint:
    """Return base + delta: one float32 sum per number, rounded once to the base's number format.

    ``rule`` says what the delta's extra embedding rows are added to: "zero" (Vicuna v0, LLaVA), "mean" of the base's
    rows (Stanford's Alpaca), or "auto": the mean where the delta is float32. With the mean, a float32 delta makes a
    float32 model, as Stanford's script does.

    Raises:
        WeightsError: another size or generation, a delta that is a whole model, a base that is a delta or tuned
            already, tensors that do not match.
        UsageError: another rule.
    """
    if rule not in RULES:
        raise UsageError("delta.rule", rule=rule[:40], known=", ".join(RULES))
    delta, notes = text_part(delta)
    notes = [*notes, *check_delta(base, delta)]
    extra = delta.llama.vocab - base.llama.vocab
    fill: Fill = "mean" if rule == "mean" or (rule == "auto" and extra and delta.dtype == "F32") else "zero"
    if extra:
        rows = {"rows": delta.llama.vocab, "base": base.llama.vocab}
        notes.append(Message("delta.found.mean_rows" if fill == "mean" else "weights.found.extra_rows", rows))
    wide = fill == "mean" and delta.dtype == "F32"
    if base.dtype != delta.dtype:
        names = {"base": CONFIG_NAMES[base.dtype], "delta": CONFIG_NAMES[delta.dtype]}
        notes.append(Message("delta.found.float32" if wide else "weights.found.delta_dtype", names))
    wider = {name: cast_tensor(base[name], "F32", name=name) if wide else base[name] for name in base}
    tensors = {name: _sum(wider[name], delta[name], fill) for name in base}
    return replace(
        base,
        tensors=tensors,
        shape=_shape(base.llama, delta.llama),
        files=base.files + delta.files,
        doing="weights.doing.add_delta",
        delta_rows=extra,
        delta_fill=fill,
        notes=(*base.notes, *delta.notes, *notes),
        made_of=(*base.made_of, f"+delta {fill}", *delta.made_of),
        checks=base.checks + delta.checks,
    )


def _shape(base: ModelShape, delta: ModelShape) -> ModelShape:
    """Return the result's shape. The delta's settings were written for the finished model, so its positions hold."""
    return replace(
        base,
        vocab=delta.vocab,
        max_positions=delta.max_positions,
        rope_theta=delta.rope_theta,
        rope_scaling=delta.rope_scaling,
    )


def _sum(base: Tensor, delta: Tensor, fill: Fill) -> Tensor:
    """Return the sum of two matrices. New rows are added to zeros, not copied: -0.0 becomes +0.0, as in FastChat."""
    left = extended(base, delta.length, fill=fill)

    def rows(start: int, stop: int) -> Array:
        return add(left.rows(start, stop), delta.rows(start, stop), left_dtype=left.dtype, right_dtype=delta.dtype)

    return Tensor(left.dtype, delta.shape, rows, left.unit, left.files | delta.files)
