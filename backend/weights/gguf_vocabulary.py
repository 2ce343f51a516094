"""A tokenizer as GGUF keeps it: every token's text, score and kind, the merges, and which tokens begin and end a text.

Cria itself cuts and joins text with the folder's own tokenizer; this is what llama.cpp turns new tokens into text with,
and what lets other programs use the file alone. Knows nothing about weights or files of GGUF.

Kinds and keys: ggml-org/ggml ``docs/gguf.md``; the kinds have SentencePiece's numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.weights.disk import label
from backend.weights.fast_tokenizer import AddedToken
from backend.weights.sentencepiece_model import Kind
from backend.weights.tiktoken_model import PATTERN
from backend.weights.tokenizer import Vocabulary, find_vocabulary, kept_template

MOST_ENDS = 3  # tokens that end a reply: GGUF has a key for the end of a text, of a turn and of a message
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_APPENDED = -1000.0  # the score of a token that no pair of pieces is ever merged into
_BYTE = "<0x{:02X}>"


def tokenizer_settings(folder: Path, rows: int, ends: Sequence[int]) -> dict[str, Any]:
    """Return key -> value of everything a GGUF file says about the tokenizer of a model folder.

    ``rows``: embedding rows, each of which gets a token; ``ends``: ids that end a reply.

    Raises:
        WeightsError: no tokenizer, one of a kind that GGUF cannot express, or more ends than it has keys for.
    """
    vocabulary = find_vocabulary([folder], rows)
    if len(ends) > MOST_ENDS:
        raise WeightsError("gguf.ends", count=len(ends), most=MOST_ENDS)
    table = _pieces(vocabulary, rows) if vocabulary.model else _from_json(vocabulary, rows)
    texts, scores, kinds = table.pop("texts"), table.pop("scores"), table.pop("kinds")
    for token in vocabulary.added:
        _put(texts, scores, kinds, token)
    for row in range(len(texts)):  # rows that no token names: the file must name each
        if not texts[row]:
            texts[row], kinds[row] = f"[unused{row}]", Kind.UNUSED
    keys: dict[str, Any] = {**table, "tokens": [text.encode() for text in texts], "token_type": list(map(int, kinds))}
    if table["model"] == "llama":
        keys["scores"] = scores
    keys |= {"bos_token_id": vocabulary.bos.id, "padding_token_id": vocabulary.pad.id, "add_bos_token": True}
    if vocabulary.unk is not None:
        keys["unknown_token_id"] = vocabulary.unk.id
    keys |= dict(zip(_END_KEYS, ends or (vocabulary.eos.id,), strict=False))
    template = kept_template(vocabulary)
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()} | (
        {"tokenizer.chat_template": template} if template else {}
    )


def _empty(rows: int) -> dict[str, Any]:
    return {"texts": [""] * rows, "scores": [_APPENDED] * rows, "kinds": [Kind.NORMAL] * rows}


def _put(texts: list[str], scores: list[float], kinds: list[Kind], token: AddedToken) -> None:
    """Note a token that was added to the learned ones, or that is one of them and has a meaning of its own."""
    texts[token.id] = token.text
    if kinds[token.id] is not Kind.UNKNOWN:
        kinds[token.id] = Kind.CONTROL if token.special else Kind.USER_DEFINED
    scores[token.id] = min(scores[token.id], 0.0)


def _pieces(vocabulary: Vocabulary, rows: int) -> dict[str, Any]:
    """Return SentencePiece's own table."""
    model = vocabulary.model
    assert model
    table = _empty(rows) | {"model": "llama", "pre": "default", "add_space_prefix": model.dummy_prefix}
    for number, piece in enumerate(model.pieces):
        table["texts"][number], table["scores"][number], table["kinds"][number] = piece.text, piece.score, piece.kind
    return table


def _from_json(vocabulary: Vocabulary, rows: int) -> dict[str, Any]:
    """Return the table of a ``tokenizer.json``: SentencePiece's pieces with merges, or tiktoken's byte letters."""
    fast = vocabulary.fast or {}
    model = fast.get("model")
    vocab, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(merges, list):
        raise WeightsError("weights.tokenizer_kind", folder=label(vocabulary.place))
    table = _empty(rows)
    assert isinstance(vocab, dict)  # find_vocabulary looked
    for text, number in vocab.items():
        table["texts"][int(number)] = text
    if model.get("byte_fallback") is not True:
        return table | {"model": "gpt2", "pre": _pre(fast), "merges": [_joined(pair, " ") for pair in merges]}
    ranks = {_joined(pair, ""): rank for rank, pair in reversed(list(enumerate(merges)))}
    known = {_BYTE.format(value): Kind.BYTE for value in range(256)}
    unknown = model.get("unk_token")
    for number, text in enumerate(table["texts"]):
        table["kinds"][number] = Kind.UNKNOWN if text == unknown else known.get(text, Kind.NORMAL)
        # llama.cpp joins the pair whose joined piece has the highest score; merges are in falling order.
        table["scores"][number] = -float(ranks.get(text, len(ranks)))
    return table | {"model": "llama", "pre": "default", "add_space_prefix": _prefixes(fast)}


def _joined(pair: Any, between: str) -> str:
    """Return a merge as one text; files have it as "left right" or as a pair."""
    left, _, right = pair.partition(" ") if isinstance(pair, str) else (str(pair[0]), "", str(pair[1]))
    return f"{left}{between}{right}"


def _prefixes(fast: Mapping[str, Any]) -> bool:
    """Tell whether a space is put before a text."""
    normalizer, first = fast.get("normalizer"), fast.get("pre_tokenizer")
    steps = (normalizer.get("normalizers") or [normalizer]) if isinstance(normalizer, dict) else []
    prepended = any(isinstance(step, dict) and step.get("type") == "Prepend" for step in steps)
    return prepended or (isinstance(first, dict) and first.get("prepend_scheme", "never") != "never")


def _pre(fast: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for the rule that cuts a text into words; other programs need it, Cria does not."""
    first = fast.get("pre_tokenizer")
    steps = (first.get("pretokenizers") or [first]) if isinstance(first, dict) else []
    patterns = [step["pattern"].get("Regex") for step in steps if isinstance(step.get("pattern"), dict)]
    return "llama-bpe" if PATTERN in patterns else "default"
