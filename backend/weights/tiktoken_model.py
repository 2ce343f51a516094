"""Llama 3's ``tokenizer.model``: a list of byte strings in order of rank (tiktoken's format), and the
``tokenizer.json`` that gives the same ids. Knows nothing about folders.

Sources: the file format of openai/tiktoken (``load.py``); pattern and special tokens of meta-llama/llama3
(``llama/tokenizer.py``), names of the special tokens as in the Hugging Face release of Llama 3.1, whose ids are the
same.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.weights.disk import source_file
from backend.weights.fast_tokenizer import AddedToken, begin_template

_LIMIT = 16_000_000  # bytes; Llama 3's has 2,183,982
_SPECIAL_TOKENS = 256
_NAMED = {
    0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id",
    8: "eom_id", 9: "eot_id", 10: "python_tag",
}  # fmt: skip
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_tiktoken(path: Path) -> dict[bytes, int]:
    """Return the ranks of all byte strings.

    Raises:
        WeightsError: not such a list, or ranks that are not 0, 1, 2 and so on.
    """
    size = source_file(path).bytes
    if size > _LIMIT:
        raise WeightsError("weights.tokenizer_damaged", file=path.name, what=f"{size} bytes")
    ranks: dict[bytes, int] = {}
    try:
        for line in filter(None, path.read_bytes().splitlines()):
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error) as problem:
        raise WeightsError("weights.tokenizer_damaged", file=path.name, what=str(problem)[:80]) from problem
    if list(ranks.values()) != list(range(len(ranks))) or any(bytes([value]) not in ranks for value in range(256)):
        raise WeightsError("weights.tokenizer_damaged", file=path.name, what="ranks")
    return ranks


def special_tokens(first: int) -> tuple[AddedToken, ...]:
    """Return the 256 special tokens that follow the ranks."""
    names: list[str] = []
    for number in range(_SPECIAL_TOKENS):
        reserved = f"reserved_special_token_{number - sum(named < number for named in _NAMED)}"
        names.append(_NAMED.get(number, reserved))
    return tuple(AddedToken(first + number, f"<|{name}|>") for number, name in enumerate(names))


def tiktoken_json(ranks: Mapping[bytes, int], added: Sequence[AddedToken], *, bos: AddedToken) -> dict[str, Any]:
    """Return the contents of tokenizer.json."""
    letters = _byte_letters()
    texts = {token: "".join(letters[byte] for byte in token) for token in ranks}
    # Flags as in Meta's own tokenizer.json, also where they mean nothing: the file comes out the same to the last byte.
    to_letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    offsets = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.to_json() for token in added],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_letters]},
        "post_processor": {"type": "Sequence", "processors": [offsets, begin_template(bos)]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a word that is a token stays whole, as in tiktoken
            "vocab": {texts[token]: rank for token, rank in ranks.items()},
            "merges": [f"{texts[left]} {texts[right]}" for left, right in _merges(ranks)],
        },
    }


def tiktoken_bytes(fast: Mapping[str, Any]) -> bytes | None:
    """Return the tokenizer.model that a tokenizer.json was made from, or None if it was made from something else."""
    model = fast.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict):
        return None
    values = {letter: byte for byte, letter in enumerate(_byte_letters())}
    try:
        ranks = {int(rank): bytes(values[letter] for letter in token) for token, rank in vocab.items()}
    except (KeyError, TypeError, ValueError):  # a letter that stands for no byte: pieces of another kind
        return None
    if sorted(ranks) != list(range(len(ranks))) or not {bytes([value]) for value in range(256)} <= set(ranks.values()):
        return None
    return b"".join(b"%s %d\n" % (base64.b64encode(ranks[rank]), rank) for rank in range(len(ranks)))


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return every pair of tokens that joins into a token, in order of the rank of the joined one."""
    found: list[tuple[bytes, bytes]] = []
    for token in ranks:  # in rising rank
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        known = [pair for pair in splits if pair[0] in ranks and pair[1] in ranks]
        found.extend(sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]])))
    return found


def _byte_letters() -> list[str]:
    """Return a printable letter for every byte: GPT-2's table, in which unprintable ones move to 256 and above."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(256, 512))
    return [chr(byte if byte in printable else next(moved)) for byte in range(256)]
