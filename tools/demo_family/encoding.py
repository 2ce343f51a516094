"""Turns conversations into token ids and answer masks, exactly as inference will see them.

Knows nothing about training. The Hugging Face tokenizer cuts a prompt at `<s>` and `</s>`; what
follows such a token starts with a space mark or without one, depending on its `legacy` setting
and on the template. The model is shown both, so that either way of asking works.
"""

from __future__ import annotations

import random

import sentencepiece as spm

from .config import BOS, EOS, MAX_TOKENS
from .corpus import Conversation

Example = tuple[list[int], list[bool]]  # ids, and whether each one is to be learned


class ChatEncoder:
    """Encodes the Vicuna v1.1 prompt with one SentencePiece model."""

    def __init__(self, sp: spm.SentencePieceProcessor) -> None:
        self.sp = sp

    def text(self, text: str, *, marked: bool = True) -> list[int]:
        """Ids of a stretch of text, with or without the mark for a space in front."""
        if marked:
            return self.sp.encode(text)
        return self.sp.encode(f"\n{text}")[2:]  # the space mark and the newline's byte

    def conversation(self, talk: Conversation, rnd: random.Random) -> Example:
        """One training example; whole turns beyond the context are left out."""
        ids, learn = [BOS], [False]
        first_marked, later_marked = rnd.random() < 0.5, rnd.random() < 0.5
        for at, (question, answer) in enumerate(talk.turns):
            head = f"USER: {question} ASSISTANT:"
            if at == 0 and talk.system:
                head = f"{talk.system} {head}"
            ask = self.text(head, marked=later_marked if at else first_marked)
            reply = [*self.text(answer), EOS]
            if len(ids) + len(ask) + len(reply) > MAX_TOKENS:
                break
            ids += ask + reply
            learn += [False] * len(ask) + [True] * len(reply)
        return ids, learn

    def prompt(self, talk: Conversation) -> list[int]:
        """The ids of a conversation whose last answer is still to be written."""
        ids = [BOS]
        for at, (question, answer) in enumerate(talk.turns):
            head = f"USER: {question} ASSISTANT:"
            if at == 0 and talk.system:
                head = f"{talk.system} {head}"
            ids += self.text(head)
            if at < len(talk.turns) - 1:
                ids += [*self.text(answer), EOS]
        return ids
