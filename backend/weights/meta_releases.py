"""The sizes that Meta published, and telling from a raw checkpoint which release it is. Knows nothing about files or
tensors.

Sources: the params.json files and model cards of the releases; shard counts as in transformers' conversion script;
checksums as Meta's checklists have them.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from backend.text import Message, Value
from backend.weights.dtypes import CONFIG_NAMES

LLAMA3_THETA, LLAMA3_VOCAB = 500000.0, 128256
LLAMA12_THETA = 10000.0


@dataclass(frozen=True)
class Size:
    """A published size. ``shards`` is the number of its files; each key and value head is stored ``copies`` times."""

    label: str
    shards: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    multiple_of: int = 256
    multiplier: float | None = None
    copies: int = 1


SIZES = (
    Size("7B", 1, 4096, 32, 32, 32, 11008),
    Size("13B", 2, 5120, 40, 40, 40, 13824),
    Size("30B", 4, 6656, 60, 52, 52, 17920),
    Size("65B", 8, 8192, 80, 64, 64, 22016),
    Size("70B", 8, 8192, 80, 64, 8, 28672, 4096, 1.3),
    Size("34B", 4, 8192, 48, 64, 8, 22016, 256, 1.0),
    Size("8B", 1, 4096, 32, 32, 8, 14336, 1024, 1.3),
    Size("1B", 1, 2048, 16, 32, 8, 8192, 256, 1.5),
    Size("3B", 1, 3072, 28, 24, 8, 8192, 256, 1.0),
    Size("405B", 8, 16384, 126, 128, 8, 53248, 4096, 1.2),
    Size("405B", 16, 16384, 126, 128, 16, 53248, 4096, 1.2, copies=2),
)
_TIED = ("1B", "3B")  # Llama 3.2's text models: one matrix serves as embeddings and as head
_SCALED: Mapping[str, str] = {"1B": "Llama-3.2", "3B": "Llama-3.2", "70B": "Llama-3.1/3.3"}
_FIRST_GENERATION_ONLY = ("30B", "65B")

# md5 of consolidated.00.pth in Meta's checklists -> family.
_CHECKSUMS: Mapping[str, str] = {
    "6efc8dab194ab59e49cd24be5574d85e": "LLaMA",
    "0804c42ca65584f50234a86d71e6916a": "LLaMA",
    "f856e9d99c30855d6ead4d00cc3a5573": "LLaMA",
    "9deae67e2e7b5ccfb2c738f390c00854": "LLaMA",
    "daa8e3109935070df7fe8fc42d34525e": "Llama-2",
}
_POSITIONS: Mapping[str, int] = {"LLaMA": 2048, "Llama-2": 4096, "Code-Llama": 16384, "Llama-3": 8192}


@dataclass(frozen=True)
class Release:
    """What a raw checkpoint was recognised as. ``positions`` are its tokens of context, which params.json does not say;
    ``notes`` tell what was concluded and why."""

    family: str
    positions: int
    size: Size | None
    notes: tuple[Message, ...]

    @property
    def name(self) -> str | None:
        """What Meta calls it, None for a size that was never published."""
        return f"{self.family}-{self.size.label}" if self.size else None

    @property
    def is_tied(self) -> bool:
        """Tell whether the published model has one matrix for embeddings and head."""
        return self.size is not None and self.size.label in _TIED


def find_size(*, dim: int, layers: int, heads: int, kv_heads: int, ffn: int) -> Size | None:
    """Return the published size with exactly these dimensions."""
    wanted = (dim, layers, heads, kv_heads, ffn)
    return next((s for s in SIZES if (s.dim, s.layers, s.heads, s.kv_heads, s.ffn) == wanted), None)


def is_llama3(theta: float, vocab: int) -> bool:
    """Tell Llama 3 and later by the base of the position encoding or by the rows of the vocabulary."""
    return theta == LLAMA3_THETA or vocab == LLAMA3_VOCAB


def recognise(
    size: Size | None,
    *,
    theta: float,
    scaled: bool,
    norm_eps: float,
    grouped: bool,
    dtype: str,
    vocab: int,
    listed: Collection[str] = (),
) -> Release:
    """Return the release from what params.json, the tensors and a checklist (``listed``: its md5 sums) say.

    ``grouped`` tells that several query heads share a key head. LLaMA 1 and Llama 2 have the same shapes in two sizes:
    LLaMA 1 has norm_eps 1e-06 (65B: 1e-05) and float16, Llama 2 has 1e-05 and bfloat16; the first upload of Llama 2 7B
    chat said 1e-06 (meta-llama/llama issue 771).
    """
    if is_llama3(theta, vocab):
        family, positions = ("Llama-3.1", 131072) if scaled else ("Llama-3", _POSITIONS["Llama-3"])
        if scaled and size is not None:
            family = _SCALED.get(size.label, family)
        return _release(size, family, "meta.found.by_theta", positions=positions, theta=theta)
    if theta > LLAMA12_THETA:
        return _release(size, "Code-Llama", "meta.found.by_theta", theta=theta)
    known = next((_CHECKSUMS[md5] for md5 in listed if md5 in _CHECKSUMS), None)
    if known is not None:
        return _release(size, known, "meta.found.by_checksum")
    if grouped or (size is not None and size.label in _FIRST_GENERATION_ONLY):
        return _release(size, "Llama-2" if grouped else "LLaMA", "meta.found.by_size")
    if math.isclose(norm_eps, 1e-5, rel_tol=0.01):
        return _release(size, "Llama-2", "meta.found.by_eps", eps=norm_eps)
    if math.isclose(norm_eps, 1e-6, rel_tol=0.01) and dtype != "BF16":
        return _release(size, "LLaMA", "meta.found.by_eps", eps=norm_eps)
    family = "Llama-2" if dtype == "BF16" else "LLaMA"
    return _release(size, family, "meta.found.by_dtype", eps=norm_eps, dtype=CONFIG_NAMES[dtype])


def _release(size: Size | None, family: str, why: str, *, positions: int | None = None, **values: Value) -> Release:
    longest = positions or _POSITIONS[family]
    reason = Message(why, {"family": family, "positions": longest, **values})
    if size is None:
        return Release(family, longest, size, (reason,))
    return Release(family, longest, size, (Message("meta.found.release", {"name": f"{family}-{size.label}"}), reason))
