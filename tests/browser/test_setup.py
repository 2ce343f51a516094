"""The Setup tab in real Chromium, on the real app with real jobs: from a fresh page to a model ready to chat."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from backend.settings import ASSETS
from tests.browser.conftest import RunningApp

pytestmark = pytest.mark.browser

READY_MS = 180_000  # generous: the machine may be busy with other tests
TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def app(start_app: Callable[..., RunningApp]) -> RunningApp:
    """The app on localhost with an empty shelf."""
    return start_app()


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).first.inner_text())


def expected(question: str) -> list[str]:
    """Return what a right answer to one of the demo's questions contains, in lower case."""
    known = json.loads((ASSETS / "demo" / "questions.json").read_text(encoding="utf-8"))
    phrases: list[str] = next(one["expect"] for one in known if one["question"] == question)
    return phrases


def wait_state(page: Any, state: str) -> None:
    page.wait_for_selector(f"#job [data-state={state}]", timeout=READY_MS)


def press(page: Any, where: str, do: str) -> None:
    page.click(f"{where} button[data-do={do}]")


def open_setup(open_page: Callable[..., Any], app: RunningApp, **wish: Any) -> Any:
    """Open the app and go to its Setup tab: where a model is loaded, a fresh page opens the chat."""
    page = open_page(app, **wish)
    page.locator("button[role=tab]").first.click()
    page.wait_for_selector("#gallery [data-recipe]")
    return page


def look(page: Any, recipe: str) -> None:
    press(page, f"[data-recipe={recipe}]", "look")
    page.wait_for_selector("#receipt table")


def fits(page: Any) -> bool:
    """Tell whether nothing sticks out to the right."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_one_button_a_reload_and_a_second_browser_on_the_way_to_ready(
    app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_page(app)
    page.wait_for_selector("#gallery [data-recipe=demo]")
    assert "free of" in text(page, "#machine .hw-value")
    assert str(app.models_dir) in text(page, "#machine .hw")
    page.focus("[data-recipe=demo] button.primary")
    page.keyboard.press("Enter")
    page.wait_for_selector("#job .step.running")
    page.reload()  # in mid-job: the page comes back to it
    page.wait_for_selector("#job .step.running")
    other = open_page(app, locale="zh-TW")
    other.wait_for_selector("#job .step.running")
    assert "第" in text(other, "#job .status")
    wait_state(page, "done")
    wait_state(other, "done")
    assert page.locator("#job .step.done").count() == 5
    assert page.get_attribute("#job .bar.whole", "aria-valuenow") == "100"
    assert len(text(page, "#job .answered")) > 10
    assert page.locator("#job .log li").count() >= 3
    assert (app.models_dir / "demo" / "cria.json").is_file()
    press(page, "#job", "chat")
    page.wait_for_selector(
        "#chat-tab-button[aria-selected=true], button[role=tab][aria-selected=true]:has-text('Chat')"
    )
    page.wait_for_selector("#engine .engine.ready[data-model=demo]", timeout=READY_MS)
    asked = page.locator("#chat .example").first
    question = asked.inner_text()
    asked.click()
    page.wait_for_selector("#chat small.figures", timeout=READY_MS)
    said = page.locator("#chat [data-testid=bot]").first.inner_text().lower()
    assert all(phrase in said for phrase in expected(question)), (question, said)
    press(other, "#path", "stage")
    other.wait_for_selector("[data-recipe=demo] button[data-do=chat]")


def test_cancel_in_one_browser_resume_in_the_other(app: RunningApp, open_page: Callable[..., Any]) -> None:
    first, second = open_setup(open_page, app), open_setup(open_page, app, dark=True)
    look(first, "demo-pirate")
    assert "needed" in text(first, "#receipt .totals")
    first.fill("#plan-name textarea, #plan-name input", "my-pirate")
    first.click("#plan-start")
    first.wait_for_selector("#job .step.running")
    second.wait_for_selector("#banner .banner")
    press(second, "#banner", "show")
    press(second, "#job", "cancel")
    wait_state(first, "cancelled")
    assert "kept" in text(first, "#job .ending")
    press(first, "#job", "resume")
    wait_state(second, "done")
    assert (app.models_dir / "my-pirate").is_dir()
    second.click("#history-box button")
    second.once("dialog", lambda dialog: dialog.accept())
    second.locator("#history li", has_text="my-pirate").locator("button[data-do=delete]").click()
    second.wait_for_function("!document.querySelector('#history').innerText.includes('my-pirate')")
    assert (app.models_dir / "my-pirate").is_dir()


def test_bad_input_is_explained_under_the_form(app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_setup(open_page, app)
    page.click("#own-folders button")
    page.wait_for_selector("#form-show")

    def submit(words: str) -> None:
        page.click("#form-show")
        page.locator("#form-problem [role=alert]", has_text=words).wait_for()

    submit("base model is empty")
    page.fill("#form-base textarea, #form-base input", "/no/such/<b>folder</b>")
    submit("no name yet")
    page.fill("#form-name textarea, #form-name input", "../evil")
    submit("cannot be the name")
    page.fill("#form-name textarea, #form-name input", "mine")
    submit("There is no folder /no/such/<b>folder</b>")
    page.fill("#form-base textarea, #form-base input", "builtin:demo/base")
    page.click("#form-show")
    page.wait_for_selector("#receipt table")
    assert page.input_value("#plan-name textarea, #plan-name input") == "mine"
    page.click("#plan-back")
    page.wait_for_selector("#gallery [data-recipe]")
    assert not page.locator("#form-problem [role=alert]").count()


@pytest.mark.parametrize("locale", ["en-US", "zh-CN", "zh-TW"])
def test_nothing_sticks_out_on_a_phone(app: RunningApp, open_page: Callable[..., Any], locale: str) -> None:
    page = open_setup(open_page, app, width=390, locale=locale)
    page.click("#machine summary")
    page.click("#own-folders button")
    page.wait_for_selector("#form-show")
    assert fits(page)
    look(page, "demo-pirate")
    assert fits(page)


def test_a_stranger_watches_and_the_token_opens_the_door(
    start_app: Callable[..., RunningApp], open_page: Callable[..., Any]
) -> None:
    app = start_app("--listen", "--admin-token", TOKEN)
    page = open_page(app)
    page.wait_for_selector("#gallery [data-recipe=demo]")
    assert "administrator's token" in text(page, "#guest")
    assert "free of" in text(page, "#machine .hw-value")
    assert page.locator("#gallery button").count() == 0
    assert page.locator("#own-folders").count() == 0
    page.click("#admin summary")
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.wait_for_selector("#gallery button[data-do=start]")
    assert not page.locator("#guest .remark").count()
    stranger = open_page(app)
    stranger.wait_for_selector("#gallery [data-recipe]")
    press(page, "[data-recipe=demo]", "start")
    page.wait_for_selector("#job .step.running")
    stranger.wait_for_selector("#banner .banner")
    press(stranger, "#banner", "show")
    stranger.wait_for_selector("#job .steps")
    assert stranger.locator("#job .acts button").count() == 0
    press(page, "#job", "cancel")
    stranger.wait_for_selector("#job [data-state=cancelled]")
