"""adapter_config.json of a PEFT LoRA: what of it changes the sum, checked field by field, and what cannot be folded in.

The file is input, not configuration: known keys are taken with type and range checks, keys that name another method
are refused with the reason, everything else is ignored. Knows nothing about tensors or checkpoints.

Source of the fields: huggingface/peft ``tuners/lora/config.py``, v0.3 to v0.20, and the forks of early 2023.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.weights.disk import is_there, number, read_json
from backend.weights.patterns import Pattern, UnsupportedPattern, parse_pattern

FILE = "adapter_config.json"
_MAX_ENTRIES = 100_000  # of a list or table; rank_pattern may name every module, tokens may be many
_MAX_TOKEN = 1 << 24

# Settings that make another network of the base, with the values that leave it alone.
_OTHER_NETWORKS: Mapping[str, tuple[Any, ...]] = {
    "layer_replication": (None, [], {}),
    "target_parameters": (None, [], {}),
    "megatron_config": (None, {}),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (None, False),
    "use_bdlora": (None, False),
    "arrow_config": (None, {}),
    "velora_config": (None, {}),
    "monteclora_config": (None, {}),
}
# Ways to start training that leave the base's own weights as they are; all others replace them by a remainder.
_NEUTRAL_STARTS = (None, True, False, "true", "false", "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class LoraSettings:
    """What a LoRA's settings say about its sum. ``targets`` is None where that is not a list of layers."""

    rank: float
    alpha: float
    by_root: bool  # rsLoRA: alpha / sqrt(rank)
    magnitudes: bool  # DoRA
    fan_in_fan_out: bool
    biases: bool
    base: str  # what it was trained on, as its author called it
    ranks: tuple[tuple[Pattern, float], ...] = field(repr=False)
    alphas: tuple[tuple[Pattern, float], ...] = field(repr=False)
    tokens: Mapping[str, tuple[int, ...]] = field(repr=False)  # by module: rows that are replaced one by one
    targets: tuple[Pattern, ...] | None = field(repr=False)
    layers: frozenset[int] | None = field(repr=False)  # None: all
    saved: tuple[str, ...] = ()  # modules that are saved whole

    def rank_of(self, module: str) -> float:
        """Return the rank that the settings give one module."""
        return _first(self.ranks, module, self.rank)

    def scale_of(self, module: str, rank: int) -> float:
        """Return what multiplies one module's product."""
        alpha = _first(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.by_root else rank)

    def token_rows(self, module: str) -> tuple[int, ...]:
        """Return the rows of one module that are replaced one by one, in the adapter's order."""
        found = (rows for name, rows in self.tokens.items() if module == name or module.endswith(f".{name}"))
        return next(found, ())


def _first(table: tuple[tuple[Pattern, float], ...], module: str, default: float) -> float:
    return next((value for pattern, value in table if pattern.matches_tail(module)), default)


def read_settings(folder: Path) -> LoraSettings:
    """Read the settings in an adapter's folder.

    Raises:
        WeightsError: none there, another method than LoRA, or one whose result is not the base plus a product.
    """
    if not is_there(folder / FILE):
        raise WeightsError("weights.adapter_missing", folder=str(folder))
    data = read_json(folder / FILE)
    if data.get("peft_type") != "LORA":
        raise WeightsError("weights.adapter_kind", kind=str(data.get("peft_type"))[:40])
    for key, harmless in _OTHER_NETWORKS.items():
        if data.get(key) not in harmless:
            raise WeightsError("weights.adapter_field", key=key, value=str(data[key])[:60])
    if not _is_transformers(data.get("auto_mapping")):
        raise WeightsError("weights.adapter_field", key="auto_mapping", value=str(data["auto_mapping"])[:60])
    start = data.get("init_lora_weights")
    if isinstance(start, list | dict) or (start.lower() if isinstance(start, str) else start) not in _NEUTRAL_STARTS:
        raise WeightsError("lora.changed_base", start=str(start)[:40])
    if data.get("lora_bias") not in (None, False):
        raise WeightsError("lora.lora_bias")
    if data.get("bias") not in (None, "none", "all", "lora_only"):
        raise WeightsError("weights.adapter_field", key="bias", value=str(data["bias"])[:60])
    return LoraSettings(
        rank=number(data, "r", FILE, low=1, high=1e6),
        alpha=number(data, "lora_alpha", FILE, low=0, high=1e6),
        by_root=_flag(data, "use_rslora"),
        magnitudes=_flag(data, "use_dora"),
        fan_in_fan_out=_flag(data, "fan_in_fan_out"),
        biases=data.get("bias") in ("all", "lora_only"),
        base=str(data.get("base_model_name_or_path") or "?")[:200],
        ranks=_numbers(data, "rank_pattern", low=1),
        alphas=_numbers(data, "alpha_pattern", low=0),
        tokens=_tokens(data.get("trainable_token_indices")),
        targets=None if data.get("exclude_modules") else _targets(data.get("target_modules")),
        layers=_layers(data.get("layers_to_transform")),
        saved=_texts(data.get("modules_to_save")),
    )


def _is_transformers(mapping: Any) -> bool:
    """Tell whether ``auto_mapping`` is absent or names a model class of transformers itself: PEFT writes the class of
    its base where it was not told the task, which changes no number. Another library's class is another network."""
    if mapping in (None, {}):
        return True
    return isinstance(mapping, dict) and str(mapping.get("parent_library")).startswith("transformers.")


def _numbers(data: Mapping[str, Any], key: str, *, low: float) -> tuple[tuple[Pattern, float], ...]:
    table = data.get(key) or {}
    if not isinstance(table, dict) or len(table) > _MAX_ENTRIES:
        raise WeightsError("weights.adapter_field", key=key, value=str(table)[:60])
    return tuple((_pattern(text, key), number(table, text, FILE, low=low, high=1e6)) for text in table)


def _flag(data: Mapping[str, Any], key: str) -> bool:
    value = data.get(key)
    if not isinstance(value, bool | None):
        raise WeightsError("weights.adapter_field", key=key, value=str(value)[:60])
    return value is True


def _pattern(text: str, key: str) -> Pattern:
    try:
        return parse_pattern(text)
    except UnsupportedPattern as problem:
        raise WeightsError("lora.pattern", key=key, pattern=text[:80]) from problem


def _tokens(found: Any) -> dict[str, tuple[int, ...]]:
    """Return module -> rows; a plain list means the input embeddings."""
    table = found if isinstance(found, dict) else {"embed_tokens": found} if found else {}
    for rows in table.values():
        whole = isinstance(rows, list) and len(rows) <= _MAX_ENTRIES
        if not whole or not all(type(row) is int and 0 <= row < _MAX_TOKEN for row in rows):
            raise WeightsError("weights.adapter_field", key="trainable_token_indices", value=str(rows)[:60])
        if len(set(rows)) < len(rows):
            raise WeightsError("weights.adapter_field", key="trainable_token_indices", value=str(rows)[:60])
    return {str(name): tuple(rows) for name, rows in table.items()}


def _targets(found: Any) -> tuple[Pattern, ...] | None:
    """Return what was trained, for a warning only: where a pattern is not understood, nothing is known."""
    try:
        if isinstance(found, str):
            return None if found == "all-linear" else (parse_pattern(found),)
        return tuple(parse_pattern(text) for text in _texts(found)) or None
    except UnsupportedPattern:
        return None


def _layers(found: Any) -> frozenset[int] | None:
    values = found if isinstance(found, list) else [found]
    layers = frozenset(value for value in values[:_MAX_ENTRIES] if type(value) is int)
    return layers or None


def _texts(found: Any) -> tuple[str, ...]:
    values = found if isinstance(found, list) else []
    return tuple(value for value in values[:_MAX_ENTRIES] if isinstance(value, str))
