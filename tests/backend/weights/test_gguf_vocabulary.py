"""A folder's tokenizer as GGUF keeps it: texts, scores, kinds and special tokens, for every sort of tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest

from backend.errors import WeightsError
from backend.weights.gguf_vocabulary import can_express, tokenizer_settings
from backend.weights.sentencepiece_model import Kind, read_sentencepiece
from backend.weights.tiktoken_model import PATTERN
from tests.backend.engines import tiny
from tests.backend.weights.make import tokenizer_model
from tests.backend.weights.test_tiktoken_model import ranks
from tests.backend.weights.test_tiktoken_model import write_model as write_llama3

PIECES = 500


def settings(folder: Path, rows: int, ends: tuple[int, ...] = (2,)) -> dict[str, Any]:
    found = tokenizer_settings(folder, rows, ends)
    return {key.removeprefix("tokenizer.").removeprefix("ggml."): value for key, value in found.items()}


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model(PIECES))
    return tmp_path


def test_sentencepiece(learned: Path) -> None:
    found, pieces = settings(learned, PIECES), read_sentencepiece(learned / "tokenizer.model").pieces
    assert found["model"] == "llama"
    assert found["add_space_prefix"] is True
    assert [text.decode() for text in found["tokens"]] == [piece.text for piece in pieces]
    assert found["scores"] == [piece.score for piece in pieces]
    assert found["token_type"] == [int(piece.kind) for piece in pieces]
    assert (found["bos_token_id"], found["eos_token_id"], found["unknown_token_id"]) == (1, 2, 0)
    assert found["add_bos_token"] is True
    assert "chat_template" not in found
    assert "merges" not in found


def test_added_tokens_unnamed_rows_and_the_template(learned: Path) -> None:
    (learned / "added_tokens.json").write_text(json.dumps({"<|im_end|>": PIECES}))
    (learned / "chat_template.jinja").write_text("{{ messages }}")
    found = settings(learned, PIECES + 3, ends=(2, PIECES))
    assert found["tokens"][PIECES] == b"<|im_end|>"
    assert found["token_type"][PIECES] == Kind.CONTROL
    assert (found["eos_token_id"], found["eot_token_id"]) == (2, PIECES)
    assert found["chat_template"] == "{{ messages }}"
    assert len(found["tokens"]) == PIECES + 3


def test_every_row_has_a_name_of_its_own(learned: Path) -> None:
    found = settings(learned, PIECES + 40)
    assert len(set(found["tokens"])) == len(found["tokens"]) == PIECES + 40
    assert set(found["token_type"][PIECES:]) == {int(Kind.UNUSED)}


def test_merges_become_scores(tmp_path: Path) -> None:
    found = settings(tiny.write_model(tmp_path / "model"), tiny.shape().vocab)
    made = tiny.tokenizer()
    scores = {text: found["scores"][made.token_to_id(text)] for text in ("he", "hell", "▁hello", "你好", "x")}
    assert scores == {"he": 0.0, "hell": -2.0, "▁hello": -4.0, "你好": -6.0, "x": -7.0}
    kinds = {text: found["token_type"][made.token_to_id(text)] for text in ("<unk>", "</s>", "<0x0A>", "he")}
    assert kinds == {"<unk>": Kind.UNKNOWN, "</s>": Kind.CONTROL, "<0x0A>": Kind.BYTE, "he": Kind.NORMAL}
    assert found["add_space_prefix"] is True
    assert found["chat_template"] == tiny.TEMPLATE


def test_a_token_that_is_text_stays_text(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "model")
    fast = json.loads((folder / "tokenizer.json").read_text())
    fast["added_tokens"].append({**fast["added_tokens"][0], "id": 300, "content": "<think>", "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(fast))
    found = settings(folder, tiny.shape().vocab)
    assert found["tokens"][300] == b"<think>"
    assert found["token_type"][300] == Kind.USER_DEFINED


def test_llama_3(tmp_path: Path) -> None:
    first = len(ranks())
    (tmp_path / "model").mkdir()
    found = settings(write_llama3(tmp_path / "model"), first + 256, ends=(first + 1, first + 8, first + 9))
    assert (found["model"], found["pre"]) == ("gpt2", "llama-bpe")
    assert "scores" not in found
    assert "Ġ w" in found["merges"]
    assert found["tokens"][first] == b"<|begin_of_text|>"
    assert found["bos_token_id"] == first
    assert [found[key] for key in ("eos_token_id", "eot_token_id", "eom_token_id")] == [first + 1, first + 8, first + 9]


def test_what_cannot_be_expressed_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "model")
    with pytest.raises(WeightsError, match="4 tokens that end a reply"):
        settings(folder, tiny.shape().vocab, ends=(2, 3, 4, 5))
    fast = json.loads((folder / "tokenizer.json").read_text())
    for broken in ({"type": "Unigram"}, {"merges": None}):
        (folder / "tokenizer.json").write_text(json.dumps({**fast, "model": {**fast["model"], **broken}}))
        with pytest.raises(WeightsError):
            settings(folder, tiny.shape().vocab)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(WeightsError):
        settings(folder, tiny.shape().vocab)


LETTER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"  # GPT-4o's words are told by their case


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (PATTERN, "llama-bpe"),
        (PATTERN.replace(r"\p{N}{1,3}", r"\p{N}"), "qwen2"),
        (rf"{LETTER}*[\p{{Ll}}]+|\s+", "gpt-4o"),
        (r"\w+|\s+", "default"),
    ],
)
def test_the_rule_that_cuts_words_is_named(tmp_path: Path, pattern: str, name: str) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    fast = {
        "added_tokens": [{"id": 2, "content": "<|end|>", "special": True}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(fast))
    found = tokenizer_settings(tmp_path, 4, (2,), own=True)
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", name)
    assert can_express(tmp_path)


@pytest.mark.parametrize("number", ["1e999", '"x"', "-1", "4", "null"])
def test_an_added_token_of_no_row_is_refused(tmp_path: Path, number: str) -> None:
    model = '{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}'
    added = f'[{{"id": {number}, "content": "<|end|>", "special": true}}]'
    text = f'{{"added_tokens": {added}, "decoder": {{"type": "ByteLevel"}}, "model": {model}}}'
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(WeightsError, match=r"tokenizer"):
        tokenizer_settings(tmp_path, 4, (2,), own=True)
