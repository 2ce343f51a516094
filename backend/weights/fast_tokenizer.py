"""Builds the contents of ``tokenizer.json`` (Hugging Face's fast tokenizer) from a SentencePiece BPE vocabulary, so
that it gives the same ids as the tokenizer LLaMA was trained with. Knows nothing about files or folders.

What has to hold (LLaMA's tokenizer in its "legacy" behaviour, the one Vicuna and Alpaca were trained with): every
stretch of text between special tokens gets a space in front, spaces become ``▁``, the pair whose joined piece has the
highest score is merged first, and characters without a piece become bytes.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.weights.sentencepiece_model import Kind, SentencePieceModel

SPACE = "▁"


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before anything else happens to it."""

    id: int
    text: str
    special: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``added_tokens`` in tokenizer.json."""
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return {"id": self.id, "content": self.text, **flags, "special": self.special}


def merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Return every pair of pieces that joins into a piece, the best first.

    SentencePiece compares scores of the joined pieces; a lower id wins between equal scores, as its own vocabularies
    are in falling order. Pieces that were appended later (Chinese-LLaMA's, all with score 0) come before the learned
    ones. Where two of those overlap, SentencePiece joins the left one first, which no list of merges can say: with all
    of Chinese-Alpaca's, about one line of Chinese in four is cut in another place (other orders, transformers' and one
    that minimises contradictions included, are 1 to 3 points worse or better). ``sentencepiece_encode`` is exact.
    """
    ids = {piece.text: number for number, piece in enumerate(model.pieces) if piece.kind is Kind.NORMAL}
    ranked = sorted(ids.items(), key=lambda item: (-model.pieces[item[1]].score, item[1]))
    found: list[tuple[str, str]] = []
    for text, _ in ranked:
        splits = [(text[:at], text[at:]) for at in range(1, len(text))]
        known = [pair for pair in splits if pair[0] in ids and pair[1] in ids]
        found.extend(sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]])))
    return found


def tokenizer_json(model: SentencePieceModel, added: Sequence[AddedToken], *, bos: AddedToken) -> dict[str, Any]:
    """Return the contents of tokenizer.json."""
    unknown = next(piece.text for piece in model.pieces if piece.kind is Kind.UNKNOWN)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.to_json() for token in sorted(added, key=lambda token: token.id)],
        "normalizer": _normalizer(model),
        "pre_tokenizer": None,
        "post_processor": begin_template(bos),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1 if model.dummy_prefix else 0, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece.text: number for number, piece in enumerate(model.pieces)},
            # "left right" as one string is read by every version of the tokenizers library; pairs only since 0.20.
            "merges": [f"{left} {right}" for left, right in merges(model)],
        },
    }


def _normalizer(model: SentencePieceModel) -> Mapping[str, Any]:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def begin_template(bos: AddedToken) -> Mapping[str, Any]:
    """Return the rule that puts the begin-of-text token before a text."""
    begin = {"SpecialToken": {"id": bos.text, "type_id": 0}}
    second = {"SpecialToken": {"id": bos.text, "type_id": 1}}
    first_text, second_text = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [begin, first_text],
        "pair": [begin, first_text, second, second_text],
        "special_tokens": {bos.text: {"id": bos.text, "ids": [bos.id], "tokens": [bos.text]}},
    }
