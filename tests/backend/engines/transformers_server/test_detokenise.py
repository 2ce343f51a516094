"""Whatever the tokens, the pieces joined are the whole text, and no piece ends inside a character."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engines.transformers_server.detokenise import Detokeniser
from tests.backend.engines import tiny

TOKENIZER = tiny.tokenizer()


def decode(ids: Sequence[int]) -> str:
    return TOKENIZER.decode(list(ids), skip_special_tokens=True)


def pieces(ids: Sequence[int]) -> list[str]:
    text = Detokeniser(decode)
    return [*(text.feed(token) for token in ids), text.finish()]


@pytest.mark.parametrize(
    "text",
    [
        "hello hello", " hello", "  two  spaces  ", "a\n\n b", "你好，世界", "龘 is rare", "😀 hello 🦙🦙", "hello龘你",
        "é à ü", "\t tab", "。", " ",
    ],
)  # fmt: skip
def test_real_texts(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    made = pieces(ids)
    assert "".join(made) == decode(ids)
    assert not any("\ufffd" in piece for piece in made)


@given(st.text(alphabet="helo aé你好世界龘😀\n。", max_size=30))
def test_any_text(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    made = pieces(ids)
    assert "".join(made) == decode(ids)
    assert not any("\ufffd" in piece for piece in made)


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=40))
def test_nonsense_ends_and_loses_no_letters(ids: list[int]) -> None:
    made = "".join(pieces(ids))
    letters = [TOKENIZER.id_to_token(i) for i in ids if i >= 259 and TOKENIZER.id_to_token(i) in "abcXYZ你好"]
    at = 0
    for letter in letters:
        at = made.index(letter, at) + len(letter)


def test_bytes_that_never_make_a_character_are_not_held_back_for_ever() -> None:
    text = Detokeniser(decode)
    shown = [text.feed(TOKENIZER.token_to_id("<0xE4>")) for _ in range(50)]
    assert any(shown)
    assert len(text._ids) < 20


def test_each_ideograph_comes_as_soon_as_its_last_byte() -> None:
    ids = TOKENIZER.encode("龘龘").ids
    assert [piece for piece in pieces(ids[-6:]) if piece] == ["龘", "龘"]
