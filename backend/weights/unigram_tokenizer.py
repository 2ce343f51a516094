"""Builds the contents of ``tokenizer.json`` from a SentencePiece unigram vocabulary (T5's ``spiece.model``), so that it
cuts text as SentencePiece does. Knows nothing about files or folders.

Words that were added to the vocabulary later cut the text before anything else happens, and each stretch between them
is a text of its own: it gets a space in front when it is cut and loses it when it is put together again. FastChat-T5
added the space itself, the line feed and seven more; transformers' own fast T5 tokenizer keeps that space, which is
where its surplus spaces come from (lm-sys/FastChat issue 1022).
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from backend.weights.fast_tokenizer import SPACE, AddedToken
from backend.weights.sentencepiece_model import Kind, SentencePieceModel

Json = Mapping[str, Any]


def unigram_json(model: SentencePieceModel, added: Sequence[AddedToken], *, eos: AddedToken) -> dict[str, Any]:
    """Return the contents of tokenizer.json; every text ends with ``eos``, as an encoder wants it."""
    unknown = next(number for number, piece in enumerate(model.pieces) if piece.kind is Kind.UNKNOWN)
    ordered = sorted(added, key=lambda token: token.id)
    learned = [[piece.text, piece.score] for piece in model.pieces]
    # Tokens that follow the learned ones must be in the vocabulary to keep their numbers; only whole ones are found.
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.to_json() for token in ordered],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": None,
        "post_processor": _end_template(eos),
        "decoder": _decoder(ordered, model),
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": learned, "byte_fallback": _has_bytes(model)},
    }


def _normalizers(model: SentencePieceModel) -> list[Json]:
    steps: list[Json] = []
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.remove_extra_spaces:
        steps += [_replace({"Regex": "^ +| +$"}, ""), _replace({"Regex": " {2,}"}, " ")]
    if model.dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return [*steps, _replace({"String": " "}, SPACE)]


def _decoder(added: Sequence[AddedToken], model: SentencePieceModel) -> Json:
    """Return how pieces become text: joined, without the space in front of each stretch between added words."""
    words = [re.escape(token.text) for token in added if not token.special]
    starts = f"^{SPACE}|(?<={'|'.join(words)}){SPACE}" if words else f"^{SPACE}"
    steps: list[Json] = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if model.dummy_prefix:
        steps.append(_replace({"Regex": starts}, ""))
    return {"type": "Sequence", "decoders": [*steps, _replace({"String": SPACE}, " ")]}


def _replace(pattern: Mapping[str, str], content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _has_bytes(model: SentencePieceModel) -> bool:
    return any(piece.kind is Kind.BYTE for piece in model.pieces)


def _end_template(eos: AddedToken) -> Json:
    """Return the rule that puts the end-of-text token behind a text."""
    end = {"SpecialToken": {"id": eos.text, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [first, end],
        "pair": [first, end, second, end],
        "special_tokens": {eos.text: {"id": eos.text, "ids": [eos.id], "tokens": [eos.text]}},
    }
