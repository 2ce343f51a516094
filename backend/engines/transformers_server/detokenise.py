"""Token ids to text, as they come: never half a character, never a lost space.

A token's text depends on its neighbours: byte tokens join into one ideograph, SentencePiece swallows the first space of
whatever is decoded. So each new token is decoded together with those before it, and only the difference is given out.
Knows nothing about models or stop strings.
"""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_MOST_PENDING = 8  # tokens; a UTF-8 character is 4 bytes, so more that make no character never will


class Detokeniser:
    """Turns the ids of one reply into text; the pieces joined are the decoding of all ids."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []  # the window: tokens given out last, then those not given out yet
        self._given = 0  # how many of them are the former

    def feed(self, token: int) -> str:
        """Take one token, return the text that is now certain."""
        self._ids.append(token)
        return self._take(final=len(self._ids) - self._given > _MOST_PENDING)

    def finish(self) -> str:
        """Return what is left, when no more tokens will come."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        before = self._decode(self._ids[: self._given])
        whole = self._decode(self._ids)
        if len(whole) <= len(before) or (whole.endswith(_UNFINISHED) and not final):
            return ""
        del self._ids[: self._given]
        self._given = len(self._ids)
        return whole[len(before) :]
