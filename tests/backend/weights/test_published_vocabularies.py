"""The vocabularies that Meta and Qwen published, as llama.cpp keeps them for its own tests: cut and written as there.

They are no part of this repository. ``CRIA_VOCABULARIES`` names a folder with ``ggml-vocab-llama-spm.gguf``, the other
two and their ``.inp`` and ``.out`` files: ``models/`` of llama.cpp, also inside llama-cpp-python's source archive on
PyPI (``vendor/llama.cpp/models``).
"""

import json
import os
import struct
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from tokenizers import Tokenizer

from backend.weights.gguf_vocabulary import tokenizer_settings
from backend.weights.templates import find_template
from backend.weights.tiktoken_model import PATTERN, tiktoken_bytes
from backend.weights.tokenizer import find_vocabulary, write_tokenizer

PLACE = Path(os.environ.get("CRIA_VOCABULARIES", ""))
RANKS = 128_000  # of Llama 3; its special tokens follow

pytestmark = pytest.mark.skipif(not os.environ.get("CRIA_VOCABULARIES"), reason="CRIA_VOCABULARIES names no folder")

# protobuf: the trainer made merges, with a byte for what is unknown; the normalizer leaves blanks as they are.
SPECS = bytes.fromhex("12 05 18 02 98 02 01") + bytes.fromhex("1a 04 18 01 20 00")


def piece(text: str, score: float, kind: int) -> bytes:
    """Return an entry of a tokenizer.model; none is longer than 127 bytes."""
    raw = text.encode()
    body = bytes([0x0A, len(raw), *raw, 0x15, *struct.pack("<f", score), 0x18, kind])
    return bytes([0x0A, len(body), *body])


def published(name: str) -> dict[str, Any]:
    fields = GGUFReader(PLACE / f"ggml-vocab-{name}.gguf").fields
    return {key.removeprefix("tokenizer.ggml."): field.contents() for key, field in fields.items()}


def check_ids(tokenizer: Tokenizer, name: str) -> None:
    *texts, _ = (PLACE / f"ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    wanted = (PLACE / f"ggml-vocab-{name}.gguf.out").read_text(encoding="utf-8").splitlines()
    assert len(texts) == len(wanted) > 40
    for text, ids in zip(texts, wanted, strict=True):
        assert tokenizer.encode(text, add_special_tokens=False).ids == [int(one) for one in ids.split()], text


def check_table(folder: Path, theirs: dict[str, Any], *keys: str, learned: int, own: bool = False) -> None:
    """Compare what Cria writes into a GGUF file with what llama.cpp's own converter wrote."""
    written = tokenizer_settings(folder, len(theirs["tokens"]), (2,), own=own)
    ours = {key.removeprefix("tokenizer.ggml."): value for key, value in written.items()}
    assert [text.decode() for text in ours["tokens"][:learned]] == theirs["tokens"][:learned]
    assert {key: ours[key] == theirs[key] for key in keys} == dict.fromkeys(keys, True)


def written(folder: Path, rows: int) -> tuple[Path, Tokenizer]:
    out = folder / "out"
    out.mkdir()
    write_tokenizer(find_vocabulary([folder], rows), out, template=find_template("plain"), context=2048)
    return out, Tokenizer.from_file(str(out / "tokenizer.json"))


def test_llama(tmp_path: Path) -> None:
    theirs = published("llama-spm")
    pieces = zip(theirs["tokens"], theirs["scores"], theirs["token_type"], strict=True)
    (tmp_path / "tokenizer.model").write_bytes(b"".join(starmap(piece, pieces)) + SPECS)
    out, tokenizer = written(tmp_path, len(theirs["tokens"]))
    check_ids(tokenizer, "llama-spm")
    for folder in (tmp_path, out):
        keys = ("model", "pre", "scores", "token_type", "bos_token_id", "eos_token_id", "unknown_token_id")
        check_table(folder, theirs, *keys, learned=len(theirs["tokens"]))


def test_llama_3(tmp_path: Path) -> None:
    theirs = published("llama-bpe")
    ranks = {text: rank for rank, text in enumerate(theirs["tokens"][:RANKS])}
    model = tiktoken_bytes({"model": {"vocab": ranks}})
    assert model
    assert len(model) == 2_183_982  # as Meta's file
    (tmp_path / "tokenizer.model").write_bytes(model)
    out, tokenizer = written(tmp_path, len(theirs["tokens"]))
    check_ids(tokenizer, "llama-bpe")
    check_table(out, theirs, "model", "pre", "merges", "token_type", "bos_token_id", learned=RANKS)


def test_qwen_2(tmp_path: Path) -> None:
    theirs = published("qwen2")
    first = theirs["token_type"].index(3)  # control tokens follow the learned ones
    vocab = {text: number for number, text in enumerate(theirs["tokens"][:first])}
    parts = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")}, "behavior": "Isolated"}
    table = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": text, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for number, text in enumerate(theirs["tokens"])
            if number >= first
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence", "pretokenizers": [split | {"invert": False}, {"type": "ByteLevel"} | parts]
        },
        "decoder": {"type": "ByteLevel"} | parts,
        "model": {"type": "BPE", "vocab": vocab, "merges": theirs["merges"], "byte_fallback": False},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    check_ids(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), "qwen2")
    check_table(tmp_path, theirs, "model", "pre", "merges", learned=first, own=True)
