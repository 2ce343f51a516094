"""What has been counted since the start: replies, tokens, waits, refusals. Bounded, thread-safe, and only numbers.

Knows nothing about who reads it or in which format.
"""

import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace

from backend.engines.base import SHORTEST_S

WAITS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
ENOUGH = 8  # tokens that a speed is taken from
_RECENT = 0.1  # share of a new reply in the mean length of replies


@dataclass(frozen=True)
class Histogram:
    """How many values were at most each bound, the last of which is infinity; their sum."""

    counts: tuple[int, ...] = (0,) * (len(WAITS_S) + 1)
    total: float = 0.0

    def with_value(self, value: float) -> "Histogram":
        """Return the histogram with one more value."""
        at = bisect_left(WAITS_S, value)
        counts = tuple(count + (number == at) for number, count in enumerate(self.counts))
        return Histogram(counts, self.total + value)


@dataclass(frozen=True)
class Latest:
    """What the last reply was like: of which engine process, how long the engine took to its first token (as said under
    the reply: without the queue and the waking of a model), and tokens a second while nobody else was being answered.
    0: not known. ``replies``: how many replies the speed is of; one may be too short to tell.
    """

    pid: int = 0
    first_token_s: float = 0.0
    tokens_per_s: float = 0.0
    replies: int = 1


@dataclass(frozen=True)
class _Short:
    """Replies that were too short for a speed, together."""

    tokens: int = 0
    seconds: float = 0.0
    replies: int = 0

    @property
    def is_enough(self) -> bool:
        return self.tokens >= ENOUGH and self.seconds >= SHORTEST_S


@dataclass(frozen=True)
class Counts:
    """A snapshot. ``replies`` by kind of asker and by how they ended; ``refused`` by HTTP status or by reason."""

    replies: dict[tuple[str, str], int] = field(default_factory=dict)
    tokens: int = 0
    first_token: Histogram = Histogram()
    queue: Histogram = Histogram()
    refused: dict[str, int] = field(default_factory=dict)
    mean_tokens: float = 0.0  # of a reply, lately
    last: Latest = Latest()


class Tally:
    """Where everybody counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replies: Counter[tuple[str, str]] = Counter()
        self._refused: Counter[str] = Counter()
        self._tokens, self._mean = 0, 0.0
        self._first = self._queue = Histogram()
        self._last, self._short = Latest(), _Short()

    def reply(self, kind: str, finish: str, tokens: int) -> None:
        """Note that a reply to a ``kind`` of asker has ended."""
        with self._lock:
            self._replies[kind, finish] += 1
            self._tokens += tokens
            if tokens:
                self._mean = self._mean + _RECENT * (tokens - self._mean) if self._mean else float(tokens)

    def first_token(self, seconds: float) -> None:
        """Note how long somebody waited for the first token, the queue included."""
        with self._lock:
            self._first = self._first.with_value(seconds)

    def ended(self, last: Latest, *, tokens: int = 0, seconds: float = 0.0) -> None:
        """Note what a reply was like that has ended; its speed, and in how many ``seconds`` how many ``tokens`` came
        after the first, only if it had the engine to itself. Replies too short for a speed add up to one.
        """
        with self._lock:
            before, short = self._last, self._short
            if last.pid != before.pid:
                before, short = Latest(), _Short()
            if not last.tokens_per_s:
                short = _Short(short.tokens + tokens, short.seconds + seconds, short.replies + bool(tokens))
                last = replace(last, tokens_per_s=before.tokens_per_s, replies=before.replies)
                if short.is_enough:
                    last = replace(last, tokens_per_s=short.tokens / short.seconds, replies=short.replies)
                    short = _Short()
            self._last, self._short = last, short

    def queued(self, seconds: float) -> None:
        """Note how long somebody stood in the queue."""
        with self._lock:
            self._queue = self._queue.with_value(seconds)

    def refused(self, why: str) -> None:
        """Note that a request was turned away; ``why`` is one of a small number of words."""
        with self._lock:
            self._refused[why] += 1

    def counts(self) -> Counts:
        """Return a snapshot."""
        with self._lock:
            rest = (dict(self._refused), self._mean, self._last)
            return Counts(dict(self._replies), self._tokens, self._first, self._queue, *rest)
