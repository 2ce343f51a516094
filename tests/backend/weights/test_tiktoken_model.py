"""Llama 3's tokenizer file against tiktoken's algorithm, written out here."""

import base64
import json
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from backend.errors import WeightsError
from backend.weights.templates import find_template
from backend.weights.tiktoken_model import PATTERN, read_tiktoken, special_tokens, tiktoken_json
from backend.weights.tokenizer import find_vocabulary, write_tokenizer

WORDS = ("hello", " world", "The", " quick", "你好", "世界", "🦙", "123", " assistant", "ing", "\n\n", "'ll", "lo")


def ranks() -> dict[bytes, int]:
    """All bytes, then every prefix of some words, so that they can be built step by step."""
    tokens = [bytes([value]) for value in range(256)]
    for word in WORDS:
        raw = word.encode()
        tokens.extend(raw[:end] for end in range(2, len(raw) + 1))
    return {token: rank for rank, token in enumerate(dict.fromkeys(tokens))}


def tiktoken_ids(text: str) -> list[int]:
    """Split by the pattern; in each part join the neighbours of lowest rank until none can be joined."""
    table, ids = ranks(), []
    for part in regex.findall(PATTERN, text):
        raw = part.encode()
        pieces = [raw[at : at + 1] for at in range(len(raw))]
        while len(pieces) > 1:
            rank, at = min((table.get(pieces[i] + pieces[i + 1], 1 << 30), i) for i in range(len(pieces) - 1))
            if rank == 1 << 30:
                break
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        ids.extend([table[raw]] if raw in table else [table[piece] for piece in pieces])
    return ids


def write_model(folder: Path) -> Path:
    lines = [base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks().items()]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))
    return folder


@pytest.fixture(scope="module")
def fast() -> Tokenizer:
    added = special_tokens(len(ranks()))
    return Tokenizer.from_str(json.dumps(tiktoken_json(ranks(), added, bos=added[0])))


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_ids_are_tiktokens(fast: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    assert fast.encode(text, add_special_tokens=False).ids == tiktoken_ids(text)
    assert fast.decode(fast.encode(text).ids) == text


def test_special_tokens_have_the_published_ids() -> None:
    table = {token.text: token.id for token in special_tokens(128000)}
    assert len(table) == 256
    wanted = {
        "<|begin_of_text|>": 128000, "<|end_of_text|>": 128001, "<|reserved_special_token_0|>": 128002,
        "<|finetune_right_pad_id|>": 128004, "<|reserved_special_token_2|>": 128005, "<|start_header_id|>": 128006,
        "<|eom_id|>": 128008, "<|eot_id|>": 128009, "<|python_tag|>": 128010,
        "<|reserved_special_token_247|>": 128255,
    }  # fmt: skip
    assert wanted.items() <= table.items()


def test_a_folder_gets_a_tokenizer_that_transformers_loads(tmp_path: Path) -> None:
    rows = len(ranks()) + 256
    vocabulary = find_vocabulary([write_model(tmp_path)], rows)
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(vocabulary, out, template=find_template("llama-3"), context=8192)
    tokenizer = AutoTokenizer.from_pretrained(out)
    first = len(ranks())
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (first, first + 1, first + 4)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello world"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    start, end, turn = first + 6, first + 7, first + 9
    assert ids == [
        first, start, *tiktoken_ids("user"), end, *tiktoken_ids("\n\n"), *tiktoken_ids("hello world"), turn,
        start, *tiktoken_ids("assistant"), end, *tiktoken_ids("\n\n"),
    ]  # fmt: skip
    assert not (out / "tokenizer.model").exists()  # other tools would take it for SentencePiece


@pytest.mark.parametrize("content", [b"", b"<html>", b"aGVsbG8= x\n", b"!!! 0\n", b"aGVsbG8= 0\n", b"aGVsbG8= 5\n"])
def test_what_is_no_such_list_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(WeightsError):
        read_tiktoken(tmp_path / "tokenizer.model")
