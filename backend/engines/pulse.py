"""Whether an engine that runs still does its work. Knows nothing about processes or HTTP.

An engine can fall silent altogether, or go on answering questions about its health while nothing is computed any more.
"""

import time

HUNG_AFTER_S = 60.0  # without a health answer; loading holds the interpreter for seconds at a time, not for this long
# With requests and without a step. A step is one token, or at most one chunk of a prompt (128 tokens on a CPU): a large
# model on a slow machine takes half a minute for that.
STALLED_AFTER_S = 300.0


class Pulse:
    """Takes what is heard of an engine, and tells when it has been too little for too long."""

    def __init__(self, hung_after_s: float, stalled_after_s: float) -> None:
        self._hung_after_s, self._stalled_after_s = hung_after_s, stalled_after_s
        self._heard = self._moved = time.monotonic()
        self._steps = -1

    def take(self, *, active: int, steps: int) -> None:
        """Note an answer: how many requests are being computed, and a number that grows with every step."""
        self._heard = time.monotonic()
        if not active or steps != self._steps:
            self._moved, self._steps = self._heard, steps

    def fault(self) -> tuple[str, float] | None:
        """Return the key of what is wrong and after how many seconds that was clear; None while all is well."""
        now = time.monotonic()
        if now - self._heard > self._hung_after_s:
            return "engine.hung", self._hung_after_s
        if self._heard - self._moved > self._stalled_after_s:
            return "engine.stalled", self._stalled_after_s
        return None
