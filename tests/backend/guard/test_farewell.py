"""The log of a server that ends says nothing of pages that were open, and everything else."""

import asyncio
import logging
import sys

import pytest

from backend.guard.farewell import is_news


@pytest.mark.parametrize(
    ("problem", "news"),
    [(asyncio.CancelledError("Task cancelled, timeout graceful shutdown exceeded"), False), (ValueError("x"), True)],
)
def test_what_was_cut_off_at_the_end_is_no_news(problem: BaseException, news: bool) -> None:
    try:
        raise problem
    except BaseException:  # noqa: BLE001 - as the server catches it
        told = logging.LogRecord("uvicorn.error", logging.ERROR, "x.py", 1, "Exception", (), sys.exc_info())
    assert is_news(told) is news


def test_nor_is_the_sentence_about_it() -> None:
    words = "Cancel %s running task(s), timeout graceful shutdown exceeded"
    assert not is_news(logging.LogRecord("uvicorn.error", logging.ERROR, "x.py", 1, words, (2,), None))
    assert is_news(logging.LogRecord("uvicorn.error", logging.ERROR, "x.py", 1, "port %s is taken", (7,), None))
