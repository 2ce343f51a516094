"""LoRA adapters as PEFT saves them: adapter_config.json beside adapter_model.safetensors or .bin, in every key style.

What the tensors are is sorted out here and checked against each other; folding them into a model is ``lora``'s job.
Nothing in the file may be left over: a key that is silently ignored is a model that is silently wrong. Knows nothing
about checkpoints.

Source of the key names: huggingface/peft ``utils/save_and_load.py`` and ``tuners/``, v0.3 to v0.20, and state
dictionaries that trainers saved themselves.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from backend.errors import WeightsError
from backend.text import Message
from backend.weights.adapter_config import LoraSettings, read_settings
from backend.weights.checkpoint import Tensor
from backend.weights.disk import SourceFile, inside, is_there, source_file
from backend.weights.dtypes import FLOATS, to_float32
from backend.weights.huggingface import read_weights
from backend.weights.torch_zip import Record

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_LABEL = r"(?:\.[A-Za-z0-9_-]+)?"  # the adapter's name, which save_pretrained takes out of the keys
_IGNORED = re.compile(r".+\.(original_module\..+|token_adapter\.trainable_tokens_original" + _LABEL + r"|inv_freq)")
_MAX_KEY = 300  # letters; matching time grows with their square
# Suffix -> what it is; the first that fits. The rest of the key is the module's path.
_KINDS = tuple(
    (kind, re.compile(r"(?P<module>.+?)\." + suffix))
    for kind, suffix in (
        ("down", r"lora_A" + _LABEL + r"\.weight"),
        ("up", r"lora_B" + _LABEL + r"\.weight"),
        ("lora_bias", r"lora_B" + _LABEL + r"\.bias"),
        ("embed_down", r"lora_embedding_A" + _LABEL),
        ("embed_up", r"lora_embedding_B" + _LABEL),
        ("magnitude", r"lora_magnitude_vector" + _LABEL + r"(?:\.weight)?"),
        ("tokens", r"token_adapter\.trainable_tokens_delta" + _LABEL),
        ("bias", r"(?:(?:base_layer|modules_to_save" + _LABEL + r")\.)?bias"),
        ("whole", r"(?:(?:token_adapter\.)?base_layer\.|modules_to_save" + _LABEL + r"\.)?weight"),
    )
)


@dataclass(frozen=True)
class LowRank:
    """One linear layer's pair: up [out, rank] times down [rank, in], times ``scale``.

    With ``magnitude`` [out] (DoRA) every row of the sum gets that length.
    """

    up: Tensor
    down: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def files(self) -> frozenset[Path]:
        """The files that its numbers come from."""
        return self.up.files | self.down.files | (self.magnitude.files if self.magnitude else frozenset())


@dataclass(frozen=True)
class Adapter:
    """A LoRA, not loaded. Keys are tensor names of the model: ``model.layers.0.self_attn.q_proj.weight``.

    ``embeds`` are pairs for embedding tables, whose product up [dim, rank] times down [rank, vocabulary] is added
    turned round; ``whole`` tensors replace the model's; ``tokens`` replace single rows of it.
    """

    folder: Path
    settings: LoraSettings
    pairs: Mapping[str, LowRank] = field(repr=False)
    embeds: Mapping[str, LowRank] = field(repr=False)
    whole: Mapping[str, Tensor] = field(repr=False)
    tokens: Mapping[str, tuple[tuple[int, ...], Tensor]] = field(repr=False)
    file: SourceFile
    records: tuple[Record, ...] = field(repr=False)
    notes: tuple[Message, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor of the model that it changes."""
        return tuple(dict.fromkeys((*self.pairs, *self.embeds, *self.whole, *self.tokens)))

    @property
    def rank(self) -> int:
        """The largest rank of a pair; 0 without pairs."""
        return max((pair.down.length for pair in (*self.pairs.values(), *self.embeds.values())), default=0)


def open_adapter(folder: Path) -> Adapter:
    """Open a folder with a PEFT LoRA adapter.

    Raises:
        WeightsError: no adapter, no LoRA, damaged, or something in it that cannot be folded exactly.
    """
    settings = read_settings(folder)
    name = next((name for name in _FILES if is_there(folder / name)), None)
    if name is None:
        raise WeightsError("weights.adapter_no_weights", folder=str(folder))
    file = source_file(inside(folder, name))
    tensors, records = _read(file)
    parts = _sort(tensors, name)
    pairs = {f"{module}.weight": _pair(module, parts, settings) for module in {**parts["down"], **parts["up"]}}
    embeds = {
        f"{module}.weight": _pair(module, parts, settings, prefix="embed_")
        for module in {**parts["embed_down"], **parts["embed_up"]}
    }
    for module in parts["magnitude"]:
        if not settings.magnitudes or f"{module}.weight" not in {**pairs, **embeds}:
            raise WeightsError("weights.adapter_key", file=name, name=f"{module}.lora_magnitude_vector")
    whole = {f"{module}.{kind}": tensor for kind, source in (("weight", "whole"), ("bias", "bias"))
             for module, tensor in parts[source].items()}  # fmt: skip
    tokens = {f"{module}.weight": _tokens(module, tensor, settings) for module, tensor in parts["tokens"].items()}
    if settings.tokens and not tokens:
        raise WeightsError("lora.saved_missing", name=next(iter(settings.tokens)), file=name)
    if not (pairs or embeds or whole or tokens):
        raise WeightsError("weights.adapter_empty", file=name, bytes=file.bytes)
    adapter = Adapter(folder, settings, pairs, embeds, whole, tokens, file, records)
    return replace(adapter, notes=tuple(_notes(adapter)))


def _notes(adapter: Adapter) -> Iterator[Message]:
    pairs = (*adapter.pairs.values(), *adapter.embeds.values())
    yield Message("weights.found.adapter", {"pairs": len(pairs), "whole": len(adapter.whole)})
    if adapter.tokens:
        yield Message("lora.found.tokens", {"rows": sum(len(rows) for rows, _ in adapter.tokens.values())})
    if adapter.settings.fan_in_fan_out:  # PEFT itself ignores it for linear layers, and so says
        yield Message("weights.found.fan_in_fan_out")
    if not adapter.whole and not adapter.tokens and all(map(_adds_nothing, pairs)):
        yield Message("lora.found.no_op")


def _read(file: SourceFile) -> tuple[dict[str, Tensor], tuple[Record, ...]]:
    try:
        return read_weights(file.path)
    except WeightsError as problem:
        if problem.key in ("weights.no_tensors", "weights.tensor_count"):  # a dictionary with nothing in it: 443 bytes
            raise WeightsError("weights.adapter_empty", file=file.path.name, bytes=file.bytes) from problem
        raise


def _sort(tensors: Mapping[str, Tensor], file: str) -> dict[str, dict[str, Tensor]]:
    """Return kind -> module -> tensor for every tensor of the file."""
    parts: dict[str, dict[str, Tensor]] = {kind: {} for kind, _ in _KINDS}
    for key, tensor in tensors.items():
        if len(key) > _MAX_KEY:
            raise WeightsError("weights.adapter_key", file=file, name=key[:120])
        if _IGNORED.fullmatch(key):  # the frozen twin of something that is saved besides, or computed anew
            continue
        name = _model_name(key)
        fits = ((kind, found["module"]) for kind, pattern in _KINDS if (found := pattern.fullmatch(name)))
        kind, module = next(fits, ("", ""))
        if kind == "lora_bias":
            raise WeightsError("lora.lora_bias")
        if not kind or "lora_" in module or module in parts[kind]:
            raise WeightsError("weights.adapter_key", file=file, name=key[:120])
        if tensor.dtype not in FLOATS:
            raise WeightsError("weights.dtype_unknown", name=key[:120], dtype=tensor.dtype)
        parts[kind][module] = tensor
    return parts


def _model_name(key: str) -> str:
    """Return a key without PEFT's prefix; adapters trained on a model without its head lack ``model.`` too."""
    name = key.removeprefix("base_model.model.")
    return f"model.{name}" if name.startswith(("layers.", "embed_tokens.", "norm.")) else name


def _pair(
    module: str, parts: Mapping[str, Mapping[str, Tensor]], settings: LoraSettings, *, prefix: str = ""
) -> LowRank:
    down, up = parts[f"{prefix}down"].get(module), parts[f"{prefix}up"].get(module)
    if down is None or up is None:
        raise WeightsError("weights.adapter_half", name=module)
    if len(down.shape) != 2 or len(up.shape) != 2 or up.shape[1] != down.shape[0]:
        raise WeightsError("weights.adapter_shapes", name=module, up=str(list(up.shape)), down=str(list(down.shape)))
    rank, stated = down.shape[0], settings.rank_of(module)
    if stated != rank:
        raise WeightsError("weights.adapter_rank", name=module, stated=stated, found=rank)
    magnitude = None if prefix else parts["magnitude"].get(module)
    if settings.magnitudes and magnitude is None:
        raise WeightsError("lora.dora_embedding" if prefix else "lora.dora_incomplete", name=module)
    if magnitude is not None and magnitude.shape != (up.length,):
        raise WeightsError(
            "weights.adapter_other_size", name=module, found=str(list(magnitude.shape)), expected=str([up.length])
        )
    return LowRank(up, down, settings.scale_of(module, rank), magnitude)


def _tokens(module: str, tensor: Tensor, settings: LoraSettings) -> tuple[tuple[int, ...], Tensor]:
    rows = settings.token_rows(module)
    if len(tensor.shape) != 2 or tensor.length != len(rows):
        raise WeightsError("lora.token_rows", name=module, stated=len(rows), found=tensor.length)
    return rows, tensor


def _adds_nothing(pair: LowRank) -> bool:
    """Tell whether a product is zero; of a trained one only the first matrix is read."""
    return pair.magnitude is None and (_is_zero(pair.up) or _is_zero(pair.down))


def _is_zero(tensor: Tensor) -> bool:
    return not any(np.any(to_float32(slab, tensor.dtype)) for slab in tensor.slabs())
