"""LoRA adapters as PEFT saves them: adapter_config.json beside adapter_model.safetensors or .bin, in every key style.

What the numbers mean is read here and checked; folding them into a model is ``lora``'s job. What cannot be folded
exactly is refused with the reason. Knows nothing about checkpoints.

Source of fields and key names: huggingface/peft (``tuners/lora/config.py``, ``utils/save_and_load.py``, v0.3 to v0.20).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.text import Message
from backend.weights.checkpoint import Tensor
from backend.weights.disk import SourceFile, inside, number, read_json, source_file
from backend.weights.dtypes import FLOATS
from backend.weights.huggingface import read_weights
from backend.weights.torch_zip import Record

CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")

# Fields that change the sum into something else, with the values that leave it alone.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "lora_bias": (None, False),
    "bias": (None, "none"),
    "layer_replication": (None, [], {}),
    "target_parameters": (None, [], {}),
    "trainable_token_indices": (None, [], {}),
    "use_qalora": (None, False),
    "auto_mapping": (None, {}),
    "alora_invocation_tokens": (None, []),
    "init_lora_weights": (None, True, False, "gaussian", "true", "false"),
}
_PREFIX = re.compile(r"^(base_model\.model\.)?")
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(\.default)?\.weight")
_WHOLE = re.compile(r"(?P<module>.+?)(\.modules_to_save(\.default)?)?\.weight")


@dataclass(frozen=True)
class LowRank:
    """One module's pair: up [out, rank] times down [rank, in], times ``scale``."""

    up: Tensor
    down: Tensor
    scale: float


@dataclass(frozen=True)
class Adapter:
    """A LoRA, not loaded. Keys are tensor names of the model: ``model.layers.0.self_attn.q_proj.weight``."""

    folder: Path
    pairs: Mapping[str, LowRank] = field(repr=False)
    whole: Mapping[str, Tensor] = field(repr=False)  # tensors that replace the model's (modules_to_save)
    files: tuple[SourceFile, ...]
    records: tuple[Record, ...] = field(repr=False)
    base: str
    notes: tuple[Message, ...]


def open_adapter(folder: Path) -> Adapter:
    """Open a folder with a PEFT LoRA adapter.

    Raises:
        WeightsError: no adapter, no LoRA, damaged, or something in it that cannot be folded exactly.
    """
    if not (folder / CONFIG).is_file():
        raise WeightsError("weights.adapter_missing", folder=str(folder))
    config = read_json(folder / CONFIG)
    _check_config(config)
    name = next((name for name in _FILES if (folder / name).is_file()), None)
    if name is None:
        raise WeightsError("weights.adapter_no_weights", folder=str(folder))
    file = source_file(inside(folder, name))
    tensors, records = read_weights(file.path)
    halves, whole = _sort(tensors, file.path.name)
    if not halves and not whole:
        raise WeightsError("weights.adapter_empty", file=name, bytes=file.bytes)
    pairs = {f"{module}.weight": _pair(module, halves[module], config) for module in halves}
    notes = [Message("weights.found.adapter", {"pairs": len(pairs), "whole": len(whole)})]
    if config.get("fan_in_fan_out") is True:  # PEFT itself ignores it for linear layers, and so says
        notes.append(Message("weights.found.fan_in_fan_out"))
    return Adapter(
        folder, pairs, whole, (file,), records, str(config.get("base_model_name_or_path"))[:200], tuple(notes)
    )


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise WeightsError("weights.adapter_kind", kind=str(config.get("peft_type"))[:40])
    for key, harmless in _UNSUPPORTED.items():
        if config.get(key) not in harmless:
            raise WeightsError("weights.adapter_field", key=key, value=str(config[key])[:60])


def _sort(tensors: Mapping[str, Tensor], file: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return LoRA halves by module, and whole tensors by name; nothing in the file may be left over."""
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = _PREFIX.sub("", key)
        if tensor.dtype not in FLOATS:
            raise WeightsError("weights.dtype_unknown", name=name[:120], dtype=tensor.dtype)
        if ".original_module." in name:
            continue  # the frozen twin of a module that is saved whole
        if found := _LORA.fullmatch(name):
            halves.setdefault(found["module"], {})[found["half"]] = tensor
        elif "lora_" not in name and "token_adapter" not in name and (found := _WHOLE.fullmatch(name)):
            whole[f"{found['module']}.weight"] = tensor
        else:
            raise WeightsError("weights.adapter_key", file=file, name=key[:120])
    return halves, whole


def _pair(module: str, halves: Mapping[str, Tensor], config: Mapping[str, Any]) -> LowRank:
    down, up = halves.get("A"), halves.get("B")
    if down is None or up is None:
        raise WeightsError("weights.adapter_half", name=module)
    if len(down.shape) != 2 or len(up.shape) != 2 or up.shape[1] != down.shape[0]:
        raise WeightsError("weights.adapter_shapes", name=module, up=str(list(up.shape)), down=str(list(down.shape)))
    rank = down.shape[0]
    stated = _by_pattern(config, "rank_pattern", "r", module, low=1)
    if stated != rank:
        raise WeightsError("weights.adapter_rank", name=module, stated=stated, found=rank)
    alpha = _by_pattern(config, "alpha_pattern", "lora_alpha", module, low=0)
    return LowRank(up, down, alpha / (math.sqrt(rank) if config.get("use_rslora") is True else rank))


def _by_pattern(config: Mapping[str, Any], patterns: str, plain: str, module: str, *, low: float) -> float:
    """Return a number for one module: of the first pattern that its path ends with, else the adapter's own.

    PEFT treats patterns as regular expressions; here only names, dots and digits are taken, so that a foreign pattern
    cannot keep the matcher busy for ever.
    """
    found = config.get(patterns)
    table = found if isinstance(found, dict) else {}
    for pattern in table:
        if not re.fullmatch(r"[A-Za-z0-9_.]{1,200}", pattern):
            raise WeightsError("weights.adapter_field", key=patterns, value=pattern[:60])
        if module == pattern or module.endswith(f".{pattern}"):
            return number(table, pattern, CONFIG, low=low, high=1e6)
    return number(config, plain, CONFIG, low=low, high=1e6)
