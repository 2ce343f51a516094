"""Trains the LLaMA-style SentencePiece model and its enlarged twin for the adapter.

Knows nothing about weights; it deals in the bytes of tokenizer.model and nothing else. The
enlarged file is written by hand, since sentencepiece itself offers no way to append pieces:
a model is a protobuf message whose field 1 is the repeated piece (1: text, 2: float score).
"""

from __future__ import annotations

import io
import struct

import sentencepiece as spm

PAD = "[PAD]"
_PIECE_FIELD = 0x0A  # field 1, length-delimited


def train(lines: list[str], vocab_size: int) -> bytes:
    """A BPE model with LLaMA's options: ids 0-2 control, 3-258 bytes, then the learned pieces."""
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="bpe", vocab_size=vocab_size,
        byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, character_coverage=0.9995,
        split_digits=True, allow_whitespace_only_pieces=True, add_dummy_prefix=True,
        remove_extra_whitespaces=False, normalization_rule_name="identity",
        num_threads=1, minloglevel=2,
    )  # fmt: skip
    return out.getvalue()


def load(model: bytes) -> spm.SentencePieceProcessor:
    """A processor over the bytes of a tokenizer.model."""
    return spm.SentencePieceProcessor(model_proto=model)


def extend(model: bytes, words: tuple[str, ...]) -> bytes:
    """The model with `words` and a final [PAD] appended with score 0, as Chinese-Alpaca's.

    A leading "_" stands for a space. BPE makes a piece by joining two known ones, so the steps
    on the way to a long word are appended too. The final count is even, for two shards.
    """
    for word in words:
        model = _reach(model, word)
    if load(model).get_piece_size() % 2 == 0:
        model = _append(model, "\u2581[")  # any harmless piece: [PAD] must come last
    return _append(model, PAD)


def _reach(model: bytes, word: str) -> bytes:
    for char in word.replace("_", ""):
        if load(model).encode(f"a{char}", out_type=str)[-1].startswith("<0x"):
            model = _append(model, char)
    if word.startswith("_"):
        pieces = load(model).encode(word[1:], out_type=str)
    else:  # the piece stands inside a text, without the space that opens every text
        pieces = load(model).encode(f"\n{word}", out_type=str)[2:]
    joined = pieces[0]
    for piece in pieces[1:]:
        joined += piece
        model = _append(model, joined)
    return model


def _append(model: bytes, piece: str) -> bytes:
    """Insert one piece with score 0 behind the last piece of the message."""
    text = piece.encode("utf-8")
    body = b"\x0a" + _varint(len(text)) + text + b"\x15" + struct.pack("<f", 0.0)
    at = _end_of_pieces(model)
    return model[:at] + bytes([_PIECE_FIELD]) + _varint(len(body)) + body + model[at:]


def _end_of_pieces(model: bytes) -> int:
    at = 0
    while at < len(model) and model[at] == _PIECE_FIELD:
        length, at = _read_varint(model, at + 1)
        at += length
    return at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
