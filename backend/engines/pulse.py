"""Whether an engine that runs still does its work. Knows nothing about processes or HTTP.

An engine can fall silent altogether, or go on answering questions about its health while nothing is computed any more.
Slow is not hung: a process that burns processor time is given five times as long, for a machine may be busy, a prompt
may have 100,000 tokens, and an engine that reads prompts in one step says nothing meanwhile. It is not given for ever:
who runs in circles burns time, too.
"""

import time

HUNG_AFTER_S = 60.0  # without a health answer; loading holds the interpreter for seconds at a time, not for this long
# With requests and without a step. A step is one token, or at most one chunk of a prompt (128 tokens on a CPU): a large
# model on a slow machine takes half a minute for that.
STALLED_AFTER_S = 300.0
LOADING_AFTER_S = 1800.0  # without a byte more: a server of files that is gone, a child that never answers
BUSY = 0.1  # of one processor: a fifth of what a fair system leaves to a process where two others want the same one
LONGER_IF_BUSY = 5


class Pulse:
    """Takes what is heard of an engine, and tells when it has been too little for too long."""

    def __init__(self, hung_after_s: float, stalled_after_s: float) -> None:
        self._hung_after_s, self._stalled_after_s = hung_after_s, stalled_after_s
        self._heard = self._moved = time.monotonic()
        self._at: object = None  # how far it had come when it last moved
        self._loading = True
        self._cpu_s = self._cpu_heard_s = self._cpu_moved_s = 0.0

    def take(self, at: object, *, waited_for: bool, loading: bool = False) -> None:
        """Note an answer: how far it is, which changes with every step, and whether anybody waits for more."""
        self._heard, self._cpu_heard_s, self._loading = time.monotonic(), self._cpu_s, loading
        if not waited_for or at != self._at:
            self._moved, self._cpu_moved_s, self._at = self._heard, self._cpu_s, at

    def burnt(self, cpu_s: float) -> None:
        """Note the seconds of processor time that the process has used since it began."""
        self._cpu_s = max(self._cpu_s, cpu_s)

    def fault(self) -> tuple[str, float] | None:
        """Return the key of what is wrong and after how many seconds that was clear; None while all is well."""
        now = time.monotonic()
        limit_s = self._patience(self._hung_after_s, now - self._heard, self._cpu_s - self._cpu_heard_s)
        if now - self._heard > limit_s:
            return "engine.hung", limit_s
        if self._loading:
            is_stuck = self._heard - self._moved > LOADING_AFTER_S
            return ("hard.loading_stalled", LOADING_AFTER_S) if is_stuck else None
        limit_s = self._patience(self._stalled_after_s, now - self._moved, self._cpu_s - self._cpu_moved_s)
        if self._heard - self._moved > limit_s:
            return "engine.stalled", limit_s
        return None

    @staticmethod
    def _patience(limit_s: float, since_s: float, burnt_s: float) -> float:
        return limit_s * (LONGER_IF_BUSY if burnt_s > BUSY * since_s else 1)
