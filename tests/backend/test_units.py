"""Bytes, rates and durations read the way people write them."""

import pytest

from backend.text import duration, guess, roughly, say
from backend.units import bytes_text, duration_text, rate_text, speed_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (13_476_831_232, "13.5 GB"),
        (130_000_000_000, "130 GB"),
        (2.5e12, "2.5 TB"),
        (None, "?"),
    ],
)
def test_bytes(count: float | None, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00"), (185, "3:05"), (7385, "2:03:05"), (None, "?"),
     (float("inf"), "?")],
)  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


def test_an_unknown_rate_is_said_to_be_unknown() -> None:
    assert rate_text(None) == "?"
    assert rate_text(12_300_000) == "12.3 MB/s"


@pytest.mark.parametrize(
    ("language", "seconds", "text", "rough"),
    [
        ("en", 33.2, "33 s", "33 s"),
        ("zh-CN", 33.2, "33 秒", "33 秒"),
        ("zh-TW", 185, "3 分 05 秒", "3 分鐘"),
        ("zh-CN", 7385, "2 小时 03 分 05 秒", "2 小时"),
        ("en", 12_300, "3:25:00", "3 h 20 min"),
        ("en", 2_856, "47:36", "48 min"),
    ],
)
def test_a_duration_reads_as_people_of_that_language_write_it(
    language: str, seconds: float, text: str, rough: str
) -> None:
    assert duration(language, seconds) == text
    assert roughly(language, seconds) == rough


@pytest.mark.parametrize(
    ("speed", "text"),
    [(0.44, "0.4"), (9.94, "9.9"), (9.96, "10"), (42.4, "42"), (99.6, "100"), (1318.7, "1,300"), (None, "?")],
)
def test_speeds_claim_no_more_than_is_known(speed: float | None, text: str) -> None:
    assert speed_text(speed) == text


def test_a_guessed_time_reads_the_same_in_a_sentence() -> None:
    assert guess("en", 0.2) == "a moment"
    assert say("en", "cli.plan.total", download=0, seconds=5206).endswith("Time: about 87 min")
