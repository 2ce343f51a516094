"""Fits as HTML: a word beside every colour, sums folded, nothing from data gets through as HTML."""

import pytest

from backend.fit.remedy import advise
from backend.fit.verdict import look
from backend.hardware import GpuProcess
from backend.text import LANGUAGES, say
from tests.backend.fit.machines import GB, SEVEN, THIRTEEN, machine
from tests.ui.render.reading import Page
from ui.render.fit import fit_table, verdict_badge


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("verdict", ["well", "tight", "no", None])
def test_a_verdict_is_a_word_and_a_colour(verdict: str | None, language: str) -> None:
    badge = Page(verdict_badge(verdict, language)).every[0]
    assert badge["class"] == f"fit {verdict or 'unknown'}"
    assert badge.text == say(language, f"fit.{verdict or 'unknown'}")


def test_every_way_has_its_sum() -> None:
    hardware = machine(32, 16, 24)
    outlook = advise(look(THIRTEEN, hardware), hardware)
    page = Page(fit_table(outlook, "en"))
    rows = [one for one in page.every if one.tag == "th" and one["scope"] == "row"]
    assert len(rows) == len(outlook.ways) == 9
    sums = [one.text for one in page.every if one.tag == "li"]
    assert "Weights: 13,015,864,320 × 2 bytes (bfloat16) = 26.0 GB" in sums
    assert page.every[0].tag == "details"


def test_names_of_programs_are_text() -> None:
    hardware = machine(4, 6, held=(GpuProcess(4, 30 * GB, "<script>", "<b>"),))
    html = fit_table(advise(look(THIRTEEN, hardware), hardware), "en")
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_nothing_known_draws_nothing() -> None:
    assert fit_table(look(SEVEN, machine(None)), "en") == ""
