"""What the page draws of attached LoRAs."""

import re

import pytest

from backend.engines.base import EngineOptions, EngineState, EngineStatus, Lora
from backend.text import LANGUAGES
from ui.render.engine import engine_card
from ui.render.loading import reload_changes
from ui.render.loras import changed_loras, lora_id, scales_text, strengths

NASTY = '<script>alert(1)</script>" onclick="x'


def inputs(html: str) -> list[dict[str, str]]:
    return [dict(re.findall(r'([\w-]+)="([^"]*)"', one)) for one in re.findall(r"<input [^>]*>", html)]


def test_nothing_to_show_is_nothing() -> None:
    assert strengths((), "en", title="LoRAs") == ""


def test_one_row_says_one_strength_three_times() -> None:
    switch, number, slider = inputs(strengths([("pirate", 0.25)], "en"))
    assert (number["value"], slider["value"], switch["data-on"]) == ("0.25", "0.25", "0.25")
    assert (number["max"], slider["max"]) == ("10", "2")
    assert number["data-field"] == lora_id("pirate")


def test_one_that_is_off_comes_back_as_it_was_trained() -> None:
    drawn = strengths([("pirate", 0.0)], "en")
    assert inputs(drawn)[0]["data-on"] == "1"
    assert " checked" not in drawn
    assert " checked" in strengths([("pirate", 3.0)], "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_are_text_wherever_they_stand(language: str) -> None:
    lora = Lora(f"/x/{NASTY.replace('/', '')}", 0.5)
    ready = EngineStatus(EngineState.READY, "toy", EngineOptions(loras=(lora,)))
    drawn = [
        strengths([(NASTY, 1.0)], language, title="t", lost=[NASTY]),
        engine_card(ready, language, admin=False),
        reload_changes(ready, "toy", EngineOptions(), language),
        strengths([("half \udcff", 1.0)], language),
    ]
    for html in drawn:
        assert "<script" not in html
        assert '" onclick' not in html
        assert html.encode()


def test_the_card_names_what_is_attached_and_is_silent_where_nothing_is() -> None:
    attached = EngineOptions(loras=(Lora("/x/pirate"), Lora("/x/story", 0.5)))
    assert "pirate, story × 0.5" in engine_card(EngineStatus(EngineState.READY, "toy", attached), "en", admin=False)
    assert "LoRA" not in engine_card(EngineStatus(EngineState.READY, "toy"), "en", admin=True)


def test_ids_tell_names_apart_and_tell_nothing_else() -> None:
    names = ["a", "b", "/x/a", "", "half \udcff", "x" * 100_000, NASTY]
    assert len({lora_id(name) for name in names}) == len(names)
    assert all(re.fullmatch(r"[0-9a-f]{12}", lora_id(name)) for name in names)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_reload_names_what_comes_goes_and_changes(language: str) -> None:
    attached = (Lora("/x/pirate"), Lora("/x/story", 0.5))
    assert changed_loras(attached, attached, language) == []
    told = changed_loras(attached, (Lora("/x/story", 2.0), Lora("/x/new", 0.25)), language)
    assert ["new × 0.25" in told[0], "pirate" in told[1], "story × 2" in told[2]] == [True] * 3
    assert len(told) == 3


def test_a_strength_of_one_goes_without_saying() -> None:
    assert scales_text((("a", 1.0), ("b", 0.05), ("c", 1.25)), "en") == "a, b × 0.05, c × 1.25"
    assert scales_text((("a", 1.0), ("b", 2.0)), "zh-CN") == "a、b × 2"
