"""What the cards of the shelf show: to whom, in which state, and never as HTML of somebody else's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.errors import CriaError, WeightsError
from backend.fit.result import Fit, Outlook, Verdict
from backend.fit.result import Way as Loading
from backend.jobs.shelf import Shelved
from backend.jobs.view import JobState, JobView, StepView
from backend.library.condition import Condition, Fault, Way
from backend.library.models import ModelInfo
from backend.library.record import Checked, Ingredient
from backend.text import LANGUAGES, Message
from tests.ui.render.reading import Page
from ui.render.models import Look, checks_list, count_text, models_list, when_text

EVIL = "<img src=x onerror=alert(1)>"
ADMIN = Look("en", True, "/data/models", ("alpaca", "vicuna-v1.1"))
GUEST = Look("en", False)
GOOD = Shelved(
    ModelInfo(
        "demo", Path("/data/models/demo"), 5_400_000, 2_690_000, "float16", 1024, "vicuna-v1.1", "demo",
        "2026-11-21T10:00:00+00:00", True,
        origins=(Ingredient("base", "/home/me/llama"), Ingredient("lora", EVIL, 0.5)), sums=7,
    ),
    Condition(),
)  # fmt: skip
MENDABLE = Fault.of(CriaError("models.fault.tokenizer_class", name=EVIL), Way.MEND)
NO_TEMPLATE = Fault.of(CriaError("models.fault.no_template"), Way.MEND)


def shown(shelved: Shelved, look: Look = ADMIN) -> Page:
    return Page(models_list([shelved], look))


def acts(page: Page) -> list[str]:
    """Return what the card's buttons do; the one above all cards is another matter."""
    every = [one["data-do"] for one in page.all("button") if "data-do" in one.attributes]
    return [do for do in every if do != "adopt"]


def change(shelved: Shelved, **info: Any) -> Shelved:
    return replace(shelved, info=replace(shelved.info, **info))


def text(page: Page) -> str:
    return " ".join(one.text for one in page.all("article"))


def test_only_an_administrator_puts_files_on_the_shelf() -> None:
    for shelf in ([GOOD], []):
        assert len(Page(models_list(shelf, ADMIN)).all("button", data_do="adopt")) == 1
        assert not Page(models_list(shelf, GUEST)).all("button", data_do="adopt")


def test_of_a_ready_made_file_no_other_form_is_offered() -> None:
    page = shown(change(GOOD, ready=("demo.gguf",), dtype="Q4_K_M"))
    assert acts(page) == ["load", "check", "delete", "rename"]
    assert "Q4_K_M" in text(page)


def test_a_good_model_says_what_it_is_and_can_be_loaded() -> None:
    page = shown(GOOD)
    words = text(page)
    for part in ("demo", "recipe demo", "/home/me/llama", "× 0.5", "5.4 MB", "2.69M", "1,024 tokens", "vicuna-v1.1"):
        assert part in words
    assert acts(page) == ["load", "check", "lora", "dtype", "meta", "delete", "rename"]
    assert page.all("button", data_copy="/data/models/demo")


def test_a_guest_sees_neither_paths_nor_buttons() -> None:
    broken = replace(
        GOOD, found=Condition(faults=(MENDABLE, Fault.of(WeightsError("weights.no_folder", folder="/secret"))))
    )
    for one in (GOOD, broken, change(GOOD, problem="library.raw", checked=Checked("2026", 2, ("secret.bin",)))):
        page = shown(one, GUEST)
        assert page.all("button") == []
        assert page.all("details") == []
        html = models_list([one], GUEST)
        assert "/data" not in html
        assert "secret" not in html
        assert "/home" not in html
    assert "/" not in Page(models_list([], GUEST)).all("p")[0].text


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_out_of_folders_are_never_html(language: str) -> None:
    look = replace(ADMIN, language=language)
    evil = change(GOOD, name=EVIL, folder=Path(EVIL), dtype=EVIL, template=EVIL, recipe=EVIL)
    for one in (
        evil,
        replace(evil, found=Condition(faults=(MENDABLE,))),
        change(GOOD, name="a\udcff", folder=Path("a\udcff")),
    ):
        html = models_list([one], look)
        assert "<img" not in html
        html.encode()
        Page(html)
    assert "models." not in text(shown(evil, look))


def test_a_folder_whose_name_is_no_text_can_only_be_renamed_and_deleted() -> None:
    page = shown(change(GOOD, name="a\udcff", folder=Path("/m/a\udcff")))
    assert acts(page) == ["delete", "rename"]
    assert page.all("article")[0]["data-model"].isalnum()


def test_what_a_repair_mends_is_named_with_the_choice_of_a_template() -> None:
    found = Condition(template="vicuna-v1.1", guessed=True, faults=(MENDABLE, NO_TEMPLATE))
    page = shown(replace(GOOD, found=found))
    assert EVIL in text(page)
    assert acts(page)[:3] == ["repair", "load", "check"]
    assert page.all("option", value="vicuna-v1.1")[0].attributes.get("selected") == ""
    assert page.all("button", data_do="repair")[0]["data-confirm"]
    known = shown(replace(GOOD, found=replace(found, faults=(MENDABLE,))))
    assert known.all("select") == []
    loaded = shown(replace(GOOD, found=found, is_loaded=True))
    assert "repair" not in acts(loaded)
    assert acts(loaded)[:2] == ["chat", "unload"]


@pytest.mark.parametrize("way", [Way.CONVERT, Way.MERGE, Way.DELTA])
def test_what_needs_another_model_leads_to_the_form(way: Way) -> None:
    page = shown(replace(GOOD, found=Condition(faults=(Fault(Message("models.fault.raw.say"), None, way),))))
    assert acts(page)[0] == way
    assert "load" not in acts(page)


def test_a_damaged_model_names_its_files_and_the_way_out() -> None:
    page = shown(change(GOOD, checked=Checked("2026-11-21T10:00:00+00:00", 7, ("model.safetensors",))))
    assert "Files of demo that are not what they were (1): model.safetensors" in text(page)
    assert "Replace them" in text(page)


def _check(state: JobState, **step: Any) -> JobView:
    return JobView("1", "", {}, "x", state, (StepView("check", Message("models.check.title"), state, **step),))


def test_a_check_shows_bytes_speed_and_time_left_and_can_be_stopped() -> None:
    running = replace(
        GOOD, check=_check(JobState.RUNNING, done=5_000_000, total=10_000_000, bytes_per_s=1e6, seconds_left=5.0)
    )
    page = Page(checks_list([running, GOOD], ADMIN))
    assert page.all("", role="progressbar")[0]["aria-valuenow"] == "50"
    words = page.all("section")[0].text
    for part in ("5.0 MB of 10.0 MB", "1.0 MB/s", "5.0 s left"):
        assert part in words
    assert acts(page) == ["stop"]
    assert acts(Page(checks_list([running], GUEST))) == []
    for state in (JobState.QUEUED, JobState.RUNNING):
        assert Page(checks_list([replace(GOOD, check=_check(state))], ADMIN)).all("section")
    assert "stopped" in text(shown(replace(GOOD, check=_check(JobState.CANCELLED))))


def test_a_busy_model_can_be_neither_renamed_nor_deleted() -> None:
    for busy in (replace(GOOD, is_loaded=True), replace(GOOD, users=("other",))):
        assert not {"rename", "delete"} & set(acts(shown(busy)))


def test_how_it_fits_here_is_told() -> None:
    fit = Fit(Loading("cpu"), Verdict.TIGHT, {}, {}, Message("models.none"), 1024)
    look = replace(ADMIN, outlooks={"demo": Outlook(fit, verdict=Verdict.TIGHT)})
    assert shown(GOOD, look).all("span", cls="fit")
    assert not shown(change(GOOD, problem="library.raw"), look).all("span", cls="fit")


def test_an_empty_shelf_says_what_to_do() -> None:
    page = Page(models_list([], ADMIN))
    assert acts(page) == ["setup"]


def test_numbers_and_moments_as_people_read_them() -> None:
    known = {6_738_415_616: "6.74B", 32_500_000_000: "32.5B", 405_853_388_800: "406B", 560e6: "560M", 72160: "72.2k"}
    assert {count: count_text(int(count)) for count in known} == known
    assert when_text("2026-11-21T10:00:00+00:00")[:8] == "2026-11-"
    assert when_text("x" * 99) == "x" * 30
