"""The first station: what the machine means in plain words, what to do next, and the line it folds to."""

from dataclasses import replace

import pytest

from backend.fit.reach import Sized
from backend.fit.result import Fit, Outlook, Verdict, Way
from backend.text import LANGUAGES, Message
from tests.ui.render.reading import Page
from tests.ui.render.test_hardware import PLAIN, WITH_GPU
from tests.ui.render.test_recipes import DEMO, LARGE, SMALL
from ui.render.machine import machine_line, machine_station, next_step, reach
from ui.render.recipes import Offer
from ui.render.terms import TERMS, glossary

GB = 1_000_000_000


def sized(billions: int, verdict: Verdict, *, bits: int = 16, rate: float | None = None, device: str = "cuda") -> Sized:
    fit = Fit(Way(device, bits), verdict, {}, {}, Message("setup.unknown"), 2048, tokens_per_s=rate)
    return Sized(f"{billions}B", billions * GB, fit)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([], ""),
        ([sized(7, Verdict.WELL), sized(3, Verdict.WELL)], "Models up to 7B run well here."),
        (
            [sized(7, Verdict.WELL, bits=8), sized(13, Verdict.TIGHT, bits=4), sized(33, Verdict.NO)],
            "Models up to 7B run well here, in 8-bit. Up to 13B it gets tight, in 4-bit.",
        ),
        ([sized(13, Verdict.WELL), sized(7, Verdict.TIGHT)], "Models up to 13B run well here."),
        ([sized(7, Verdict.NO)], "None of the larger models fits in this machine's memory. The demo does."),
        (
            [sized(7, Verdict.WELL, rate=4.0, device="cpu")],
            "Models up to 7B run well here. There is no GPU for it, so a 7B model in 16-bit "
            "writes at most about 3.0 words (4.0 tokens) a second.",
        ),
    ],
)  # fmt: skip
def test_what_a_machine_means_in_plain_words(models: list[Sized], said: str) -> None:
    assert reach(models, "en") == said


def test_where_the_disk_limits_what_can_be_set_up_that_is_said() -> None:
    small, large = sized(8, Verdict.WELL), replace(sized(14, Verdict.WELL, bits=4), disk=False)
    said = "Models up to 14B run well here, in 4-bit."
    assert reach([small, large], "en") == f"{said} The free disk has room to set up models up to about 8B."
    assert reach([small, replace(large, disk=True)], "en") == said
    assert "no room to set up any" in reach([large], "en")
    assert "disk" not in reach([replace(large, fit=sized(14, Verdict.NO).fit)], "en")  # memory is what it lacks


def test_one_that_can_be_had_without_asking_is_suggested_before_a_larger_one_behind_a_gate() -> None:
    gated = replace(LARGE, base=replace(LARGE.base, access="https://example.org/terms"))
    well = [replace(Offer(one), outlook=Outlook(None, verdict=Verdict.WELL)) for one in (SMALL, gated)]
    names = [name for act, name in Page(next_step(well, "en", admin=True)).acts() if act == "look"]
    assert names == [SMALL.name]
    only = Page(next_step(well[1:], "en", admin=True))
    assert ("look", gated.name) in only.acts()


def test_the_first_station_shows_everything_and_the_line_folds_it() -> None:
    page = Page(machine_station(PLAIN, "Up to 7B.", "en", looked="now", following="<p>next</p>"))
    assert page.one("p", cls="lead").text == "Up to 7B."
    assert "This is what Cria found." in Page(machine_station(PLAIN, "", "en", looked="", following="")).every[0].text
    line = Page(machine_line(WITH_GPU, "Up to 7B.", "en", looked="now"))
    assert line.one("details", cls="machine").attributes.get("open") is None
    summary = line.all("summary")[0].text
    assert summary.startswith("Up to 7B. Memory free: 48.0 GB · Disk free: 250 GB · NVIDIA H200 141 GB")
    assert ("check", "") in line.acts()
    nothing = replace(PLAIN, ram_free=None)
    assert "Memory free: unknown" in Page(machine_line(nothing, "", "en", looked="")).all("summary")[0].text


def test_what_to_do_next_is_the_recommended_one_and_the_best_that_fits() -> None:
    well = [replace(Offer(one), outlook=Outlook(None, verdict=Verdict.WELL)) for one in (SMALL, LARGE)]
    page = Page(next_step([Offer(DEMO), *well], "en", admin=True))
    assert page.acts() == [("start", "demo"), ("look", "demo"), ("look", "big-13b"), ("stage", "choose")]
    assert [one["data-do"] for one in page.all("button", cls="primary")] == ["start"]
    bare = Page(next_step([], "en", admin=True))
    assert bare.one("button", cls="primary")["data-do"] == "stage"
    assert Page(next_step([Offer(DEMO)], "en", admin=False)).acts() == [("stage", "choose")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_of_the_trade_explains_itself_on_focus(language: str) -> None:
    page = Page(glossary(language, where="form"))
    terms, meanings = page.all("span", cls="term"), page.all("span", role="tooltip")
    assert len(terms) == len(TERMS)
    assert [one["aria-describedby"] for one in terms] == [one["id"] for one in meanings]
    assert {one["tabindex"] for one in terms} == {"0"}
    assert all(len(one.text) > 15 for one in meanings)
