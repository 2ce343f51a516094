"""The pieces cards are made of: escaped, closed, and honest about what is not known."""

import pytest

from backend.errors import SourceError
from tests.ui.render.reading import Page
from ui.render.markup import bar, button, facts, known, meter, problem, remark

NASTY = "\"><script>alert('x')</script>&amp;{{7*7}}${1}"


def test_text_from_outside_stays_text() -> None:
    html = button(NASTY, NASTY, NASTY, confirm=NASTY) + facts({NASTY: NASTY}) + remark(NASTY, NASTY) + bar(NASTY, 0.5)
    page = Page(html + meter(NASTY, 1, 2))
    assert not page.all("script")
    pressed = page.one("button")
    assert (pressed["data-do"], pressed["data-name"], pressed["data-confirm"], pressed.text) == (NASTY,) * 4
    assert page.facts() == {NASTY: NASTY}
    assert page.one(role="progressbar")["aria-label"] == NASTY


def test_an_address_in_a_hint_is_a_link_and_nothing_else_is() -> None:
    page = Page(
        remark("x", 'Open https://hub.example/a/b, then https://x.example/t"onclick=alert(1). javascript:alert(1)')
    )
    assert next(one["href"] for one in page.all("a")) == "https://hub.example/a/b"
    assert all("onclick" not in one.attributes for one in page.all("a"))
    assert "javascript" not in "".join(one["href"] for one in page.all("a"))


@pytest.mark.parametrize(
    ("fraction", "now", "width"), [(-1.0, "0", "0.0"), (0.254, "25", "25.4"), (7.0, "100", "100.0")]
)
def test_a_bar_stays_between_empty_and_full(fraction: float, now: str, width: str) -> None:
    page = Page(bar("Reading", fraction))
    assert page.one(role="progressbar")["aria-valuenow"] == now
    assert page.one("i")["style"] == f"width:{width}%"


def test_a_bar_without_a_position_claims_none() -> None:
    waiting = Page(bar("Reading", None)).one(role="progressbar")
    assert "aria-valuenow" not in waiting.attributes
    assert "waiting" in waiting["class"]


@pytest.mark.parametrize(("used", "total"), [(None, 10), (3, None), (3, 0)])
def test_a_gauge_of_something_unknown_is_not_drawn(used: int | None, total: int | None) -> None:
    assert meter("RAM", used, total) == ""


def test_an_error_is_read_out_with_its_way_out() -> None:
    page = Page(problem(SourceError("sources.missing", source="/raw"), "en"))
    assert page.one(role="alert").text.startswith("There is no folder /raw.")
    assert "Check the path" in page.one(role="alert").text


def test_unknown_is_a_word() -> None:
    assert known(None, "en") == "unknown"
    assert known("2.13", "en") == "2.13"
