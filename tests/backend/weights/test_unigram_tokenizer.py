"""Unigram tokenizers built here against SentencePiece itself, and FastChat-T5's words against its slow tokenizer."""

import json
import re
from functools import cache

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from backend.weights import sentencepiece_model
from backend.weights.fast_tokenizer import AddedToken
from backend.weights.unigram_tokenizer import unigram_json
from tests.backend.weights.make import TEXT
from tests.backend.weights.make_t5 import TAGS, WORDS, added_tokens, spiece

LINES = (
    *TEXT,
    "",
    " ",
    "   three   spaces   ",
    "full width ＡＢＣ１２３ and ligatures ﬁ ﬂ",
    "line\nline\n\n\tindented { code } `x` <b> \\ ^",
    "Human: hi\n### Assistant: ",
    "unknown 🦙 between words",
)


@cache
def both(*, words: bool) -> tuple[Tokenizer, sentencepiece.SentencePieceProcessor]:
    model = sentencepiece_model._model(spiece())
    size = len(model.pieces)
    added = [AddedToken(0, "<pad>"), AddedToken(1, "</s>"), AddedToken(2, "<unk>")]
    added += [AddedToken(size + TAGS - 1 - n, f"<extra_id_{n}>") for n in range(TAGS)]
    if words:
        added += [AddedToken(number, text, text == "[PAD]") for text, number in added_tokens().items()]
    table = json.dumps(unigram_json(model, added, eos=added[1]))
    return Tokenizer.from_str(table), sentencepiece.SentencePieceProcessor(model_proto=spiece())


def slow_ids(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    """What the slow T5Tokenizer of transformers 4.46 does: cut at the added words, SentencePiece for each stretch."""
    ids: list[int] = []
    for part in re.split(f"({'|'.join(map(re.escape, WORDS))})", text):
        ids += [added_tokens()[part]] if part in WORDS else processor.encode(part)
    return [*ids, 1]


def slow_text(processor: sentencepiece.SentencePieceProcessor, ids: list[int]) -> str:
    """What decode(skip_special_tokens=True, spaces_between_special_tokens=False) of the slow one gives."""
    names = {number: text for text, number in added_tokens().items()}
    text, stretch = "", []
    for number in [*ids, -1]:
        if number < 0 or number in names:
            text += processor.decode(stretch) + names.get(number, "")
            stretch = []
        elif number > 2:
            stretch.append(number)
    return text


@pytest.mark.parametrize("text", LINES)
def test_plain_t5_is_cut_as_sentencepiece_cuts(text: str) -> None:
    tokenizer, processor = both(words=False)
    ids = tokenizer.encode(text).ids
    assert ids == [*processor.encode(text), 1]
    known = [number for number in ids if number != 2]
    assert tokenizer.decode(known) == processor.decode([number for number in known if number > 2])


@pytest.mark.parametrize("text", LINES)
def test_the_words_of_fastchat_t5(text: str) -> None:
    tokenizer, processor = both(words=True)
    ids = tokenizer.encode(text).ids
    assert ids == slow_ids(processor, text)
    assert tokenizer.decode([number for number in ids if number != 2]) == slow_text(processor, ids)


@given(st.text(st.sampled_from("aeht .,AX{}<>`\\^\n\t 　ﬁé你好▁1"), max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_text(text: str) -> None:
    tokenizer, processor = both(words=True)
    ids = tokenizer.encode(text).ids
    assert ids == slow_ids(processor, text)
    if 2 not in ids:
        assert tokenizer.decode(ids) == slow_text(processor, ids)


def test_tags_keep_their_numbers() -> None:
    tokenizer, _ = both(words=True)
    size = len(sentencepiece_model._model(spiece()).pieces)
    assert tokenizer.token_to_id("<extra_id_99>") == size
    assert tokenizer.token_to_id("<extra_id_0>") == size + 99
    assert tokenizer.token_to_id("[PAD]") == size + 100
    assert tokenizer.encode("a<extra_id_0>").ids[-2:] == [size + 99, 1]
