"""LoRAs in real Chromium: attached by the command line, changed in a conversation, kept, and taken off again."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.backend.engines.loras import write_adapter
from tests.backend.engines.tiny import write_model
from tests.browser.conftest import RunningApp, running_app
from tests.browser.test_chat import fill_for_good, press_until, say, wait_figures, wait_text

pytestmark = pytest.mark.browser
PROGRAM = (sys.executable, "-m", "tests.browser.attaching_app")
NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def lora_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    data = tmp_path_factory.mktemp("loras") / "data"
    write_model(data / "models" / "tiny", echo={"words_per_s": 50})
    flags = [f"--lora={write_adapter(data / 'models' / name)}" for name in ("pirate", NASTY)]
    with running_app(data, "--engine", "echo", "--model", "tiny", *flags, program=PROGRAM) as app:
        yield app


def strengths(page: Any, place: str) -> list[tuple[str, str, bool]]:
    """Return (name, number, switch) of every row."""
    return [
        (
            row.locator("label").inner_text(),
            row.locator("[type=number]").input_value(),
            row.locator("[type=checkbox]").is_checked(),
        )
        for row in page.locator(f"{place} .lora").all()
    ]


def test_loras_are_mixed_kept_and_taken_off(lora_app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_page(lora_app, ready=True, width=390)
    page.wait_for_selector("#lora-mix .lora")
    assert strengths(page, "#lora-mix") == [("pirate", "1", True), (NASTY, "1", True)]
    assert NASTY in page.locator("#engine dl.facts").inner_text()
    second = open_page(lora_app, ready=True, context=page.context)
    second.wait_for_selector("#lora-mix .lora")
    second.fill("#lora-mix .lora:last-child [type=number]", "0.25")  # and does not send it
    page.fill("#lora-mix [type=number]", "0.5")
    page.locator("#lora-mix [type=checkbox]").last.click()
    assert page.locator("#lora-mix [type=range]").first.input_value() == "0.5"
    say(page, "Good morning")
    wait_figures(page)
    assert page.locator("#chat small.figures").inner_text().startswith("with pirate × 0.5 · ")
    second.wait_for_function("() => document.querySelector('#lora-mix [type=number]').value === '0.5'")
    assert strengths(second, "#lora-mix") == [("pirate", "0.5", True), (NASTY, "0.25", True)]
    second.close()

    page.reload()
    page.wait_for_selector("#lora-mix .lora")
    assert strengths(page, "#lora-mix") == [("pirate", "0.5", True), (NASTY, "0", False)]
    page.click("#options > button")
    page.wait_for_selector("#lora-scales .lora")
    fill_for_good(page, "#lora-scales .lora:last-child [type=number]", "3")
    wait_text(page, "#reload", "Another strength: .*× 3")
    page.locator("#loras .token-remove").first.click()
    wait_text(page, "#reload", "Taken off: pirate")
    press_until(page, "#load", lambda: page.locator("#engine .engine.ready").count() == 0)
    wait_text(page, "#lora-mix .remark", "set to use pirate")
    assert strengths(page, "#lora-mix") == [(NASTY, "0", False)]
