"""Keys and values of the last request, for the next one that begins alike: a conversation that goes on, a system prompt
that comes again. Knows nothing about how tokens are computed.
"""

import threading
from collections.abc import Sequence
from itertools import takewhile
from operator import eq
from typing import Any

from transformers import DynamicCache


class KeptConversation:
    """One conversation's cache between two requests. While a request computes with it, it is nobody else's."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._cache: DynamicCache | None = None
        self._ids: Sequence[int] = ()
        self._mark: object = None

    def take(self, ids: Sequence[int], mark: object) -> tuple[int, DynamicCache]:
        """Return how many tokens of a prompt are computed already, and the cache that holds those and no others.

        ``mark``: what must be the same besides the tokens. The last token is never among them: something has to be
        computed for the reply to begin.
        """
        with self._lock:
            cache, self._cache = self._cache, None
            known, same_mark = self._ids, mark == self._mark
        if cache is not None and same_mark:
            same = sum(1 for _ in takewhile(bool, map(eq, known, ids[:-1])))
            surplus = cache.get_seq_length() - same
            if same and _shortened(cache, surplus):
                return same, cache
        return 0, DynamicCache(config=self._config)

    def keep(self, ids: Sequence[int], mark: object, cache: DynamicCache) -> None:
        """Keep a cache that was computed for the first of these tokens; the last one of a reply is not in it."""
        with self._lock:
            self._cache, self._ids, self._mark = cache, tuple(ids[: cache.get_seq_length()]), mark


def _shortened(cache: DynamicCache, surplus: int) -> bool:
    """Take the last tokens out of a cache; layers that look back through a window have let go of what came before."""
    if surplus > 0:
        try:
            cache.crop(-surplus)
        except RuntimeError:
            return False
    return True
