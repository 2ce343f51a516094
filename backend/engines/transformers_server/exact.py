"""A tokenizer that cuts text with Cria's own SentencePiece where ``tokenizer.json`` only comes near: vocabularies with
appended words. Knows nothing about models; templates and decoding stay the library's.
"""

import re
from pathlib import Path
from typing import Any

from backend.weights.sentencepiece_encode import Encoder, can_encode, has_ties
from backend.weights.sentencepiece_model import is_sentencepiece, read_sentencepiece
from backend.weights.tokenizer import MODEL


class ExactTokenizer:
    """transformers' tokenizer with another ``encode``: what was added is cut out first, the rest is SentencePiece's."""

    def __init__(self, library: Any, encoder: Encoder) -> None:
        self._library, self._encoder = library, encoder
        self.chat_template, self.special_tokens_map = library.chat_template, library.special_tokens_map
        self.get_vocab = library.get_vocab
        self.apply_chat_template, self.decode = library.apply_chat_template, library.decode
        self._added: dict[str, int] = library.get_added_vocab()
        words = sorted(self._added, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, words))})" if words else r"(?!)()")

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Return ``{"input_ids": ...}`` of a text."""
        ids = [self._library.bos_token_id] if add_special_tokens and self._library.bos_token_id is not None else []
        for stretch in self._cut.split(text):
            ids.extend([self._added[stretch]] if stretch in self._added else self._encoder.encode(stretch))
        return {"input_ids": ids}


def exact(library: Any, folder: Path) -> Any:
    """Return a tokenizer that is exact for the folder's vocabulary: the library's own, unless words were appended."""
    path = folder / MODEL
    if not path.is_file() or not is_sentencepiece(path):
        return library
    model = read_sentencepiece(path)
    same = {piece.text: number for number, piece in enumerate(model.pieces)}.items() <= library.get_vocab().items()
    return ExactTokenizer(library, Encoder.of(model)) if same and has_ties(model) and can_encode(model) else library
