"""Cuts text exactly as SentencePiece's BPE does, in plain Python, for vocabularies that a list of merges cannot stand
for. Knows nothing about files, and nothing about special tokens: the caller cuts those out first.

SentencePiece always joins the pair whose joined piece has the best score, and of equal ones the leftmost in the text
(google/sentencepiece 0.1.99, ``src/bpe_model.cc``). Hugging Face's BPE has one order over pairs instead, whatever the
text. In a learned vocabulary all scores differ and both agree; pieces that were appended later (Chinese-LLaMA's 17,953,
all with score 0) are equal: SentencePiece joins 上海 in 上海上 and 海上 in 海上海, and no order does both. A list of
merges cuts every fourth line of Chinese in another way, whatever its order.

Since 0.2 SentencePiece puts -0.0 (the score of the first learned piece, two spaces) behind 0.0. Here they are equal, as
in 2023, when the models of that kind were trained.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from backend.weights.fast_tokenizer import SPACE
from backend.weights.sentencepiece_model import Kind, SentencePieceModel

_MERGED = (Kind.NORMAL, Kind.USER_DEFINED)


def has_ties(model: SentencePieceModel) -> bool:
    """Tell whether pieces share a score, so that ``tokenizer.json`` can only come near."""
    scores = [piece.score for piece in model.pieces if piece.kind is Kind.NORMAL]
    return len(set(scores)) < len(scores)


def can_encode(model: SentencePieceModel) -> bool:
    """Tell whether a vocabulary has only what ``Encoder`` knows: LLaMA's kind, and what was made from it."""
    kinds = {piece.kind for piece in model.pieces}
    plain = not model.charsmap and not model.remove_extra_spaces
    return model.is_bpe and plain and Kind.BYTE in kinds and not kinds & {Kind.USER_DEFINED, Kind.UNUSED}


@dataclass(frozen=True)
class Encoder:
    """Turns a stretch of text without special tokens into ids."""

    pieces: dict[str, tuple[int, float]] = field(repr=False)  # text -> id, score
    bytes: tuple[int, ...] = field(repr=False)  # id of every byte
    dummy_prefix: bool

    @staticmethod
    def of(model: SentencePieceModel) -> "Encoder":
        """Build one; ``can_encode`` says whether that is possible."""
        numbered = list(enumerate(model.pieces))
        pieces = {piece.text: (number, piece.score) for number, piece in numbered if piece.kind in _MERGED}
        found = sorted((piece.text, number) for number, piece in numbered if piece.kind is Kind.BYTE)
        return Encoder(pieces, tuple(number for _, number in found), model.dummy_prefix)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        if not text:
            return []
        prefixed = (SPACE if self.dummy_prefix else "") + text.replace(" ", SPACE)
        return [number for symbol in self._join(list(prefixed)) for number in self._ids(symbol)]

    def _ids(self, symbol: str) -> list[int]:
        """Return the id of a piece, or those of the bytes of a character without one."""
        if symbol in self.pieces:
            return [self.pieces[symbol][0]]
        return [self.bytes[byte] for byte in symbol.encode("utf-8", "replace")]

    def _join(self, symbols: list[str]) -> Iterator[str]:
        """Yield the symbols after all joining. A symbol that was swallowed is empty; ``after`` and ``before`` skip
        it."""
        count = len(symbols)
        after, before = [*range(1, count), -1], [-1, *range(count - 1)]

        def candidate(left: int, right: int) -> tuple[float, int, int, str] | None:
            joined = symbols[left] + symbols[right]
            known = self.pieces.get(joined)
            return None if known is None else (-known[1], left, right, joined)

        waiting = [found for at in range(count - 1) if (found := candidate(at, at + 1))]
        heapify(waiting)
        while waiting:
            _, left, right, joined = heappop(waiting)
            if symbols[left] + symbols[right] != joined or not symbols[left] or not symbols[right]:
                continue  # one of them was joined with another meanwhile
            symbols[left], symbols[right] = joined, ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            for pair in ((before[left], left), (left, after[left])):
                if min(pair) >= 0 and (found := candidate(*pair)):
                    heappush(waiting, found)
        return (symbol for symbol in symbols if symbol)
