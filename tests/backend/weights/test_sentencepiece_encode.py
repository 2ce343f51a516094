"""Cutting text where appended pieces have equal scores, against SentencePiece: Chinese-Alpaca's 49,954 pieces."""

import json
import random
from functools import cache
from itertools import accumulate, pairwise

import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from backend.weights import sentencepiece_model
from backend.weights.fast_tokenizer import AddedToken, tokenizer_json
from backend.weights.sentencepiece_encode import Encoder, can_encode, has_ties
from tests.backend.weights.make import TEXT, tokenizer_model
from tests.backend.weights.test_tokenizer import add_pieces

ROWS = 49954
APPENDED = 17953
CHARACTERS = [chr(0x4E00 + number) for number in range(3000)]


@cache
def lexicon() -> tuple[list[str], list[float]]:
    """Words of one to four characters, the common ones made of common characters, as in a language."""
    random.seed(11)
    weights = list(accumulate(1 / (rank + 5) for rank in range(len(CHARACTERS))))
    words: dict[str, None] = dict.fromkeys(CHARACTERS)
    while len(words) < APPENDED + 300:  # some of them are learned ones
        length = random.choice((2, 2, 2, 3, 4))
        word = "".join(random.choices(CHARACTERS, cum_weights=weights, k=length))
        words |= dict.fromkeys(word[:end] for end in range(2, length + 1))  # what it is joined from
    learned = {piece.text for piece in sentencepiece_model._model(tokenizer_model()).pieces}
    found = [word for word in words if word not in learned][:APPENDED]
    return found, list(accumulate(1 / (rank + 20) for rank in range(len(found))))


@cache
def vocabulary() -> bytes:
    """49,954 pieces, as Chinese-Alpaca has: learned ones (most of them never used here), then 17,953 with score 0."""
    learned = tokenizer_model()
    have = len(sentencepiece_model._model(learned).pieces)
    filling = ((f"⟦{number}⟧", -1e6 - number) for number in range(ROWS - APPENDED - have - 1))
    return add_pieces(learned, *filling, *((word, 0.0) for word in lexicon()[0]), ("[PAD]", 0.0))


@cache
def lines(count: int) -> tuple[str, ...]:
    """Mixed Chinese and English."""
    random.seed(12)
    words, weights = lexicon()
    made = []
    for _ in range(count):
        chinese = "".join(random.choices(words, cum_weights=weights, k=random.randint(3, 20)))
        english = random.choice(TEXT)
        made.append(random.choice((chinese, f"{english} {chinese}", f"{chinese}，{english}")))
    return tuple(made)


@cache
def parts() -> tuple[Encoder, sentencepiece.SentencePieceProcessor]:
    model = sentencepiece_model._model(vocabulary())
    assert len(model.pieces) == ROWS
    assert can_encode(model)
    return Encoder.of(model), sentencepiece.SentencePieceProcessor(model_proto=vocabulary())


def test_three_thousand_lines_are_cut_exactly() -> None:
    encoder, processor = parts()
    assert [encoder.encode(line) for line in lines(3000)] == processor.encode(list(lines(3000)))


def test_a_list_of_merges_is_not_exact_which_is_why_this_exists() -> None:
    encoder, _ = parts()
    model = sentencepiece_model._model(vocabulary())
    bos = AddedToken(1, "<s>")
    fast = Tokenizer.from_str(json.dumps(tokenizer_json(model, [AddedToken(0, "<unk>"), bos], bos=bos)))
    other = sum(fast.encode(line, add_special_tokens=False).ids != encoder.encode(line) for line in lines(400))
    assert 40 < other < 300


def test_the_leftmost_of_equals_comes_first() -> None:
    model = add_pieces(tokenizer_model(), *((word, 0.0) for word in ("上", "海", "上海", "海上")))
    encoder = Encoder.of(sentencepiece_model._model(model))
    ids = {word: sentencepiece.SentencePieceProcessor(model_proto=model).piece_to_id(word) for word in ("上海", "海上")}
    assert encoder.encode("x上海上")[-2] == ids["上海"]
    assert encoder.encode("x海上海")[-2] == ids["海上"]


def test_only_appended_pieces_make_ties() -> None:
    learned = sentencepiece_model._model(tokenizer_model())
    assert not has_ties(learned)
    assert has_ties(sentencepiece_model._model(add_pieces(tokenizer_model(), ("ab", 0.0), ("cd", 0.0))))


@given(st.text(max_size=60) | st.text(st.sampled_from("ab ▁\n" + "".join(CHARACTERS[:30])), max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text(text: str) -> None:
    encoder, processor = parts()
    if "\0" in text or any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        return
    assert encoder.encode(text) == processor.encode(text)


def test_a_learned_vocabulary_too() -> None:
    encoder = Encoder.of(sentencepiece_model._model(tokenizer_model()))
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model())
    for first, second in pairwise(TEXT):
        assert encoder.encode(first + "  " + second) == processor.encode(first + "  " + second)
