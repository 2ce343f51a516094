"""A model that came as a ready-made GGUF file: which files of a folder it is, and what they say about it.

Big models come in parts, named ``-00001-of-00003``; llama.cpp finds the others by the first one's name. Knows nothing
about engines or how a file is read.

The keys: ggml-org/ggml ``docs/gguf.md``; the numbers of file types: ``include/llama.h``, ``enum llama_ftype``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.dimensions import Dimensions, Stored
from backend.errors import WeightsError
from backend.weights.disk import inside
from backend.weights.gguf_head import GgufHead, Passed, Value, peek, read_head

ENDING = ".gguf"
WEIGHTS = (".safetensors", ".bin", ".pth")  # beside these, a GGUF file is no more than a copy
PART = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf")
_BESIDE = ("mmproj", "imatrix")  # files for pictures, and of quantising
_MOST = 1 << 24
_USUAL_CONTEXT, _USUAL_VOCABULARY = 2048, 128_256
_NO_CHAT = ("clip", "t5", "t5encoder", "whisper", "dflash")  # what llama.cpp opens and does not chat with
_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
_REPACKED = (2, 14, 15, 25)  # llama.cpp lays these out anew for the processor (ggml-cpu/repack.cpp)
_GUESSED = 1 << 10  # a bit of the file type: it was counted from the tensors
_CACHE_ITEM = 2  # bytes; keys and values are kept in float16


@dataclass(frozen=True)
class ReadyGguf:
    """A model in one file, or in several parts, the first of which has the settings."""

    heads: tuple[GgufHead, ...]

    @property
    def path(self) -> Path:
        """The file that llama.cpp is given."""
        return self.heads[0].path

    @property
    def bytes(self) -> int:
        """The bytes of all parts."""
        return sum(head.bytes for head in self.heads)

    @property
    def parameters(self) -> int:
        """Weights in all."""
        return sum(head.parameters for head in self.heads)

    @property
    def values(self) -> Mapping[str, Value]:
        """The settings."""
        return self.heads[0].values


def is_ready(names: Iterable[str]) -> bool:
    """Tell whether a folder with these files holds a ready-made GGUF, and no weights that it was made from."""
    every = tuple(names)
    return any(name.endswith(ENDING) for name in every) and not any(name.endswith(WEIGHTS) for name in every)


def holds_ready(folder: Path) -> bool:
    """Tell whether a folder holds a ready-made GGUF, as ``is_ready`` says."""
    try:
        return is_ready(entry.name for entry in folder.iterdir())
    except OSError:
        return False


def files_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the files of the one model among others, in order.

    Raises:
        WeightsError: none, several models, or a part is missing.
    """
    found = sorted(name for name in names if name.endswith(ENDING) and not any(one in name for one in _BESIDE))
    parts = [(name, PART.fullmatch(name)) for name in found]
    models = {(part["stem"], part["count"]) if part else (name, "") for name, part in parts}
    if len(models) != 1:
        key = "ggufready.several" if models else "ggufready.none"
        raise WeightsError(key, count=len(models), first=(found or ["?"])[0])
    ((stem, count),) = models
    if not count:
        return (found[0],)
    wanted = tuple(f"{stem}-{number:05}-of-{count}{ENDING}" for number in range(1, int(count) + 1))
    missing = sorted(set(wanted) - set(found))
    if missing or not wanted:
        raise WeightsError("ggufready.part_missing", file=(missing or found)[0], count=int(count))
    return wanted


def open_ready(folder: Path) -> ReadyGguf:
    """Open the ready-made model of a folder; its weights are not read.

    Raises:
        WeightsError: it has none or several, one is cut short or damaged, or leads out of the folder.
    """
    try:
        names = [entry.name for entry in folder.iterdir() if entry.name.endswith(ENDING)]
    except OSError as problem:
        raise WeightsError("weights.cannot_read", file=folder.name, what=problem.strerror or str(problem)) from problem
    heads = tuple(read_head(inside(folder, name)) for name in files_of(names))
    for head in heads[1:]:  # a part says how many there are: then no other model's
        if head.values.get("split.count") != heads[0].values.get("split.count"):
            raise WeightsError("ggufready.bad_head", file=head.path.name, what="split.count")
    kind = architecture(heads[0].values)
    if kind in _NO_CHAT or kind.endswith("bert") or not kind:
        raise WeightsError("ggufready.no_chat", file=heads[0].path.name, kind=kind or "?")
    return ReadyGguf(heads)


def architecture(values: Mapping[str, Value]) -> str:
    """Return what kind of model a file says that it is, in llama.cpp's words; empty where it does not."""
    found = values.get("general.architecture")
    return found[:40] if isinstance(found, str) else ""


def quantisation(values: Mapping[str, Value]) -> str:
    """Return how the weights are kept, e.g. Q4_K_M; empty where the file does not say."""
    number = values.get("general.file_type")
    return _TYPES.get(number & ~_GUESSED, "") if type(number) is int else ""


def glance(folder: Path, names: Iterable[str]) -> dict[str, Value]:
    """Return the first settings of a folder's model; quick, and empty where nothing can be told."""
    try:
        return peek(inside(folder, files_of(names)[0]))
    except WeightsError:
        return {}


def stated_context(values: Mapping[str, Value]) -> int:
    """Return the tokens that the model was made for."""
    return _whole(values, "context_length") or _USUAL_CONTEXT


def dimensions_in(values: Mapping[str, Value], size: int) -> Dimensions | None:
    """Return the dimensions of a model whose files have ``size`` bytes, as far as its settings tell; None where they
    do not."""
    hidden, layers = _whole(values, "embedding_length"), _whole(values, "block_count")
    heads = _first(values, "attention.head_count")
    if not (hidden and layers):
        return None
    heads = heads or 1
    key = _whole(values, "attention.key_length") or max(1, hidden // heads)
    value = _whole(values, "attention.value_length") or key
    kept = _every(values, "attention.head_count_kv", layers) or _every(values, "attention.head_count", layers)
    number = values.get("general.file_type")
    again = size if type(number) is int and number & ~_GUESSED in _REPACKED else 0
    tokens = values.get("tokenizer.ggml.tokens")
    listed = tokens.count if isinstance(tokens, Passed) else 0
    return Dimensions(
        kind="gguf",
        vocab=_whole(values, "vocab_size") or min(listed, _MOST) or _USUAL_VOCABULARY,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=max(1, kept[0] if kept else 1),
        head_dim=key,
        ffn=_first(values, "expert_feed_forward_length") or _first(values, "feed_forward_length") or 4 * hidden,
        context=stated_context(values),
        experts=_whole(values, "expert_count"),
        active_experts=_whole(values, "expert_used_count"),
        stored=Stored(size, sum(kept) * (key + value) * _CACHE_ITEM, again),
    )


def _whole(values: Mapping[str, Value], name: str) -> int:
    """Return a number of the model's own, 0 where there is none that a model could have."""
    value = values.get(f"{architecture(values)}.{name}")
    return value if type(value) is int and 0 < value <= _MOST else 0


def _first(values: Mapping[str, Value], name: str) -> int:
    """Return a number that may differ from layer to layer: the largest."""
    listed = values.get(f"{architecture(values)}.{name}")
    if isinstance(listed, tuple):
        return max((one for one in listed if type(one) is int and 0 < one <= _MOST), default=0)
    return _whole(values, name)


def _every(values: Mapping[str, Value], name: str, layers: int) -> tuple[int, ...]:
    """Return a number of each layer; layers without attention have 0."""
    listed = values.get(f"{architecture(values)}.{name}")
    if isinstance(listed, tuple):
        return tuple(one if type(one) is int and 0 <= one <= _MOST else 0 for one in listed)
    one = _whole(values, name)
    return (one,) * min(layers, 4096) if one else ()
