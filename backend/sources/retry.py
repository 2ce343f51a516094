"""When to try again and how long to wait first. Pure, apart from the clock; knows nothing about requests."""

import random
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

_TRANSIENT = (408, 425, 429)
_BASE_S = 0.5
_CAP_S = 30.0


def is_transient(status: int) -> bool:
    """Tell whether the same request may succeed later. 501 and 505 say that it never will."""
    return status in _TRANSIENT or (status >= 500 and status not in (501, 505))


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, given as a number or as a date (RFC 9110, 10.2.3).

    None when there is none or it makes no sense. ``now`` is Unix time.
    """
    text = (value or "").strip()
    if text.isdecimal() and len(text) < 8:
        return float(text)
    try:
        then: float = parsedate_to_datetime(text).timestamp()
        return max(0.0, then - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError):
        return None


def back_off(failures: int, base_s: float = _BASE_S) -> float:
    """Return how long to wait after so many failures in a row: doubling, spread so that connections do not march."""
    return min(_CAP_S, base_s * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)


def waits(count: int) -> Iterator[float]:
    """Yield the waits between ``count`` + 1 tries."""
    yield from (back_off(failures) for failures in range(1, count + 1))
