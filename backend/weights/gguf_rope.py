"""How a model turns positions, in GGUF's words: base of the speeds, how much of a head is turned, what stretches it.

Formulas: transformers, ``modeling_rope_utils.py``; keys and tensors: llama.cpp's ``gguf-py/gguf/constants.py``. Knows
nothing about weights, kinds of models or files.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import WeightsError

LONGROPE = "longrope"
_PAGE = 256  # tokens; llama.cpp rounds a context up to this before it compares it with the original one
_LENGTH = "original_max_position_embeddings"
_KEYS: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "yarn": frozenset({"factor", _LENGTH}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", _LENGTH}),
    LONGROPE: frozenset({_LENGTH}),
}
_LISTS = ("short_factor", "long_factor")
_OPTIONAL: Mapping[str, frozenset[str]] = {LONGROPE: frozenset({"factor", "attention_factor"})}


@dataclass(frozen=True)
class Rope:
    """``theta``: base of the turning speeds; ``rotary``: numbers of each head that are turned, an even count;
    ``scaling``: ``rope_type`` and its values as config.json has them, empty for none."""

    theta: float
    rotary: int
    scaling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """How positions are stretched."""
        return str(self.scaling.get("rope_type", "default"))

    @property
    def longest(self) -> int | None:
        """Tokens up to which one set of speeds holds, or None for no limit. Beyond its original context, LongRoPE
        takes other speeds for the whole conversation; llama.cpp decides that once, when it loads."""
        return int(self.scaling[_LENGTH]) // _PAGE * _PAGE if self.kind == LONGROPE else None


def check_rope(rope: Rope, kinds: frozenset[str]) -> Rope:
    """Return the rope if llama.cpp computes it; ``kinds`` are the ways of stretching that it has for this model.

    Raises:
        WeightsError: it does not.
    """
    kind, found = rope.kind, set(rope.scaling) - {"rope_type"}
    if kind not in kinds or rope.rotary % 2:
        raise WeightsError("gguf.rope", kind=kind[:60])
    needed, optional = _KEYS[kind], _OPTIONAL.get(kind, frozenset())
    lists = frozenset(_LISTS if kind == LONGROPE else ())
    good = needed | lists <= found <= needed | lists | optional
    good = good and all(_is_positive(rope.scaling[key]) for key in found - lists)
    good = good and all(_is_factors(rope.scaling[key], rope.rotary // 2) for key in lists)
    if good and kind == "llama3":
        good = rope.scaling["low_freq_factor"] < rope.scaling["high_freq_factor"]
    if not good or rope.longest == 0:
        raise WeightsError("gguf.rope", kind=kind[:60])
    return rope


def rope_settings(rope: Rope, context: int) -> dict[str, Any]:
    """Return key -> value, without the name of the architecture; ``context`` is the most tokens the model takes."""
    scaling = rope.scaling
    table: dict[str, Any] = {"rope.dimension_count": rope.rotary, "rope.freq_base": rope.theta}
    if rope.kind in ("linear", "yarn"):
        table["rope.scaling.type"] = rope.kind
        table["rope.scaling.factor"] = float(scaling["factor"])
    if rope.kind in ("yarn", LONGROPE):
        table["rope.scaling.original_context_length"] = int(scaling[_LENGTH])
    if rope.kind == LONGROPE:
        table["rope.scaling.attn_factor"] = _attention_factor(scaling, context)
    return table


def rope_tensors(rope: Rope) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield name and numbers of what llama.cpp divides the turning speeds by."""
    if rope.kind == "llama3":
        yield "rope_freqs.weight", _llama3(rope)
    if rope.kind == LONGROPE:
        for key in _LISTS:
            name = f"rope_factors_{key.partition('_')[0]}.weight"
            yield name, np.array(rope.scaling[key], np.float32)


def _llama3(rope: Rope) -> NDArray[np.float32]:
    """Return the divisors of Llama 3.1's scaling (``_compute_llama3_parameters``): slow speeds by ``factor``, fast ones
    not at all, those between by a mixture."""
    scaling = rope.scaling
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    speeds = rope.theta ** -(np.arange(0, rope.rotary, 2, dtype=np.float64) / rope.rotary)
    turns = float(scaling[_LENGTH]) * speeds / (2 * math.pi)  # full turns within the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    divided: NDArray[np.float32] = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
    return divided


def _attention_factor(scaling: Mapping[str, Any], context: int) -> float:
    """Return what sines and cosines are multiplied by (``_compute_longrope_parameters``)."""
    if "attention_factor" in scaling:
        return float(scaling["attention_factor"])
    factor = float(scaling.get("factor", context / scaling[_LENGTH]))
    return math.sqrt(1 + math.log(factor) / math.log(scaling[_LENGTH])) if factor > 1 else 1.0


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _is_factors(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_is_positive, value))
