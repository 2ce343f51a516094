"""Which prompt template a model without one was probably trained on, by its folder's name. A guess to choose first in a
list that a person confirms; nothing is written because of a name. Knows nothing about files.
"""

import re

from backend.weights.generation import named_generation

# Parts of names as their authors chose them, the telling ones first -> template.
_NAMES = (
    (r"stable-?vicuna", "stable-vicuna"),
    (r"fastchat-?t5", "fastchat-t5"),
    (r"vicuna.*v?0(?![.\d])|vicuna-\d+b-delta-v0", "vicuna-v0"),
    (r"vicuna|longchat", "vicuna-v1.1"),
    (r"koala", "koala"),
    (r"chinese-?alpaca-?2", "llama-2"),
    (r"chinese-?alpaca", "chinese-alpaca"),
    (r"stanford-?alpaca", "stanford-alpaca"),
    (r"alpaca", "alpaca"),
    (r"llama-?3.*(instruct|chat)", "llama-3"),
    (r"llama-?2.*chat", "llama-2"),
)
_PAD_ROWS = 32001  # Vicuna v0 and Stanford's Alpaca have one row more than LLaMA
_WITH_PAD = {"vicuna-v1.1": "vicuna-v0", "alpaca": "stanford-alpaca"}


def guess_template(name: str, rows: int) -> str | None:
    """Return the template that a folder's name and its embedding rows suggest, or None."""
    plain = re.sub(r"[\s_]+", "-", name.lower())
    found = next((template for pattern, template in _NAMES if re.search(pattern, plain)), None)
    if found is None and named_generation(name) == "Llama 3" and "instruct" in plain:
        return "llama-3"
    return _WITH_PAD.get(found or "", found) if rows == _PAD_ROWS else found
