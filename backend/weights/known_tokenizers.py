"""The tokenizer files that everybody has copies of, by their sha256. Knows nothing about what is in them."""

from collections.abc import Mapping
from pathlib import Path

from backend.text import Message
from backend.weights.partial import hash_file

# Published by the projects themselves, or by many mirrors alike.
_KNOWN: Mapping[str, str] = {
    "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347": "LLaMA 1, Llama 2",
    "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55": "Llama 3",
    "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0": "Chinese-LLaMA",
    "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8": "Chinese-Alpaca",
}
_SIZES: Mapping[int, str] = {32000: "LLaMA 1, Llama 2", 49953: "Chinese-LLaMA", 49954: "Chinese-Alpaca"}


def known_tokenizer(path: Path, pieces: int) -> Message | None:
    """Return what the file's hash says: whose it is, or that it has a known one's size and not its contents."""
    name = _KNOWN.get(hash_file(path))
    if name is not None:
        return Message("finish.found.tokenizer_known", {"name": name})
    usual = _SIZES.get(pieces)
    return None if usual is None else Message("finish.found.tokenizer_changed", {"name": usual, "pieces": pieces})
