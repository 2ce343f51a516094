"""Telling models apart that have the same shapes, generations of Llama and families, from their settings and names: a
delta or LoRA for one gives nonsense on the other. Knows nothing about weights.

Source of the values: the config.json and params.json files of the releases.
"""

import math
import re
from typing import Literal

from backend.weights.shape import ModelShape

Generation = Literal["LLaMA 1", "Llama 2", "Code Llama", "Llama 3", "Llama 3.1"]

# How authors call what they trained on; the first that is found counts.
_NAMES: tuple[tuple[str, Generation], ...] = (
    ("codellama", "Code Llama"),
    ("llama31", "Llama 3.1"),
    ("llama32", "Llama 3.1"),
    ("llama33", "Llama 3.1"),
    ("llama3", "Llama 3"),
    ("llama2", "Llama 2"),
    ("decapodaresearch", "LLaMA 1"),
    ("huggyllama", "LLaMA 1"),
)
# What the names of models call the families whose layers may be of one size: Llama 3 8B and Mistral 7B are.
_FAMILIES = ("llama", "mistral", "qwen", "gemma")
_BILLIONS = re.compile(r"(?<![0-9.])(\d{1,3}(?:\.\d{1,2})?)b(?![a-z0-9])")
_BILLIONS_SLACK = 0.3  # "7B" has 6.7, "1B" 1.24, "33B" 32.5


def generation(shape: ModelShape) -> Generation | None:
    """Return the generation that a model's settings agree on, or None where they are silent or contradict each other.

    Up to 30B, LLaMA 1 has rms_norm_eps 1e-6 and Llama 2 has 1e-5; LLaMA 1 saw 2048 tokens, Llama 2 4096, though some
    of its conversions say 2048. The rest is told by the base of the position encoding.
    """
    if shape.rope_theta == 500000.0:
        scaled = (shape.rope_scaling or {}).get("rope_type") == "llama3"
        return "Llama 3.1" if scaled else "Llama 3"
    if shape.rope_theta == 1000000.0:
        return "Code Llama"
    if shape.rope_theta != 10000.0:
        return None
    if math.isclose(shape.norm_eps, 1e-6, rel_tol=0.01):
        return "LLaMA 1" if shape.max_positions <= 2048 and shape.heads == shape.kv_heads else None
    if math.isclose(shape.norm_eps, 1e-5, rel_tol=0.01):
        largest = shape.hidden == 8192 and shape.heads == shape.kv_heads  # 65B, the exception of the first generation
        return "LLaMA 1" if largest else "Llama 2"
    return None


def named_generation(name: str) -> Generation | None:
    """Return the generation that the name of a model tells, or None. Good for a hint, not for a decision."""
    plain = re.sub(r"[^a-z0-9]", "", re.sub(r"\d+(\.\d+)?b(?![a-z0-9])", "", name.lower()))
    return next((found for part, found in _NAMES if part in plain), None)


def other_family(name: str, kind: str) -> str | None:
    """Return the family that the name of a model tells, if it is one alone and not that of ``kind``, a model_type."""
    last = re.split(r"[/\\]", name.lower().rstrip("/\\"))[-1]  # of a path: "LLaMA-Factory/mistral" is no Llama
    named = [family for family in _FAMILIES if family in last]
    own = next((family for family in _FAMILIES if kind.startswith(family)), None)
    return named[0].capitalize() if own and len(named) == 1 and named[0] != own else None


def named_size(name: str, parameters: int) -> str | None:
    """Return the size that the name of a model tells ("13B"), if it is another than that of so many parameters."""
    found = _BILLIONS.findall(name.lower())
    billions = [float(text) for text in found]
    fits = any(abs(size * 1e9 - parameters) < _BILLIONS_SLACK * parameters for size in billions)
    return None if fits or not found else f"{found[-1].upper()}B"
