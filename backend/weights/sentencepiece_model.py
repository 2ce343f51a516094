"""Reads and extends a SentencePiece ``tokenizer.model`` without its library: the pieces, their scores and kinds, and
how text is prepared. Knows nothing about Hugging Face's tokenizer files.

The file is a protobuf message; field numbers are those of google/sentencepiece, ``src/sentencepiece_model.proto``.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from backend.errors import WeightsError
from backend.weights.disk import source_file

MODEL_LIMIT = 16_000_000  # bytes; the largest known (Chinese-Alpaca) is 0.8 MB
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_KIND = 1, 2, 3
_TRAINER_MODEL_TYPE, _UNIGRAM, _BPE = 3, 1, 2
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_EXTRA = 2, 3, 4


class Kind(IntEnum):
    """What a piece is, by its number in the file."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place in the list."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class SentencePieceModel:
    """A vocabulary and how text is prepared for it."""

    pieces: tuple[Piece, ...]
    is_bpe: bool
    is_unigram: bool
    charsmap: bytes  # precompiled character replacements; empty for LLaMA
    dummy_prefix: bool  # a space is put before the text
    remove_extra_spaces: bool


def is_sentencepiece(path: Path) -> bool:
    """Tell a SentencePiece file from Llama 3's list of base64 tokens, which has the same name."""
    with path.open("rb") as file:
        return file.read(1) == bytes([_PIECES << 3 | 2])


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a tokenizer.model.

    Raises:
        WeightsError: not such a file, too large, or damaged.
    """
    size = source_file(path).bytes
    if size > MODEL_LIMIT:
        raise WeightsError("weights.tokenizer_damaged", file=path.name, what=f"{size} bytes")
    try:
        return _model(path.read_bytes())
    except (ValueError, IndexError, struct.error) as problem:
        raise WeightsError("weights.tokenizer_damaged", file=path.name, what=str(problem)[:120]) from problem


def _model(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer = normalizer = b""
    for number, value in _fields(data):
        if number == _PIECES and isinstance(value, bytes):
            pieces.append(_piece(value))
        elif number == _TRAINER and isinstance(value, bytes):
            trainer = value
        elif number == _NORMALIZER and isinstance(value, bytes):
            normalizer = value
    if not pieces or len({piece.text for piece in pieces}) < len(pieces):
        raise ValueError("pieces")
    rules = dict(_fields(normalizer))
    algorithm = dict(_fields(trainer)).get(_TRAINER_MODEL_TYPE, _UNIGRAM)
    charsmap = rules.get(_CHARSMAP, b"")
    return SentencePieceModel(
        pieces=tuple(pieces),
        is_bpe=algorithm == _BPE,
        is_unigram=algorithm == _UNIGRAM,
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        dummy_prefix=bool(rules.get(_DUMMY_PREFIX, 1)),
        remove_extra_spaces=bool(rules.get(_REMOVE_EXTRA, 1)),
    )


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    text, score, kind = fields.get(_PIECE_TEXT, b""), fields.get(_PIECE_SCORE, bytes(4)), fields.get(_PIECE_KIND, 1)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("piece")
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], Kind(kind))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield field number and value of one protobuf message: a number, or the bytes of anything else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(data):
            raise ValueError("truncated")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("varint")
