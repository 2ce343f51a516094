"""Bytes, seconds and rates as people read them. Knows nothing about languages or where a number came from.

Raw bytes and seconds are used everywhere inside; only the edges (terminal, page, catalogue) come here. Sizes are
decimal (1 GB = 10^9 bytes), as disks, hubs and the tutorials count them.
"""

import math
from collections.abc import Sequence

_DURATION = ("{n} s", "{m}:{s:02d}", "{h}:{m:02d}:{s:02d}")  # below a minute, below an hour, longer
_SIZES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def bytes_text(count: float | None) -> str:
    """Return a byte count as text, with one decimal below a hundred; an unknown count (None) is a question mark."""
    if count is None:
        return "?"
    for unit, size in _SIZES:
        if abs(count) >= size * 0.9995:
            value = count / size
            digits = 0 if abs(value) >= 99.95 else 1
            return f"{value:.{digits}f} {unit}"
    return f"{count:.0f} B"


def rate_text(bytes_per_s: float | None) -> str:
    """Return a speed in bytes per second as text."""
    return "?" if bytes_per_s is None else f"{bytes_text(bytes_per_s)}/s"


def speed_text(each_s: float | None) -> str:
    """Return how many a second as people say it: ``0.4``, ``9.5``, ``42``, ``1,300``; unknown is a question mark."""
    if each_s is None:
        return "?"
    if each_s < 9.95:
        return f"{each_s:.1f}"
    return f"{each_s:.0f}" if each_s < 99.5 else f"{float(f'{each_s:.2g}'):,.0f}"


def duration_text(seconds: float | None, words: Sequence[str] = _DURATION) -> str:
    """Return a duration as ``0.4 s``, ``42 s``, ``3:05`` or ``2:03:05``; an unknown one is a question mark.

    ``words``: another language's templates for seconds, for minutes and for hours.
    """
    if seconds is None or not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return words[0].format(n=f"{seconds:.1f}")
    whole = round(seconds)
    if whole < 60:
        return words[0].format(n=whole)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return words[2].format(h=hours, m=minutes, s=left) if hours else words[1].format(m=minutes, s=left)
