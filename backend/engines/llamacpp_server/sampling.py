"""Cria's sampling in llama.cpp's words. Knows nothing about prompts or servers."""

import secrets
from typing import Any

from backend.engines.base import Sampling

# The steps and their order are those of the transformers engine: penalty, temperature, top-k, top-p.
_GREEDY = ["penalties", "temperature"]
_DRAWN = ["penalties", "temperature", "top_k", "top_p"]


def request_fields(sampling: Sampling, *, prompt: int, most: int) -> dict[str, Any]:
    """Return the fields of a completion request: tokens of ``prompt``, and ``most`` to produce."""
    greedy = sampling.temperature == 0 or sampling.top_k == 1
    return {
        "n_predict": most,
        "max_tokens": most,
        "samplers": _GREEDY if greedy else _DRAWN,
        "temperature": 0.0 if greedy else max(sampling.temperature, 1e-3),
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": prompt + most,  # the whole conversation
        "seed": secrets.randbits(32),
    }
