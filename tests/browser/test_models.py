"""The Models tab in real Chromium: a folder dropped in by hand is examined, repaired, checked and renamed."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.backend.library.folders import bare, early, pointer
from tests.browser.conftest import RunningApp

pytestmark = pytest.mark.browser

LONG_MS = 60_000
TOKEN = "correct-horse-battery-staple"
ADMIN = f"?token={TOKEN}"


@pytest.fixture(scope="module")
def app(start_app: Callable[..., RunningApp]) -> RunningApp:
    """A shared app with one toy model."""
    return start_app("--engine", "echo", "--listen", "--admin-token", TOKEN, models=("toy",))


def open_models(open_page: Callable[..., Any], app: RunningApp, **wish: Any) -> Any:
    page = open_page(app, **wish)
    page.locator("button[role=tab]").nth(2).click()
    page.wait_for_selector("#models h2")
    return page


def card(page: Any, name: str) -> Any:
    return page.locator("#models .model").filter(has=page.get_by_role("heading", name=name, exact=True))


def do(one: Any, what: str) -> None:
    one.locator(f"button[data-do={what}]").click()


def test_a_folder_dropped_in_is_repaired_checked_renamed_and_deleted(
    app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_models(open_page, app, path=ADMIN)
    card(page, "toy").wait_for()
    early(app.models_dir / "vicuna-7b-v1.1")
    old = card(page, "vicuna-7b-v1.1")
    old.locator(".faults").wait_for(timeout=LONG_MS)
    assert "LLaMATokenizer" in old.inner_text()
    assert old.locator("select").input_value() == "vicuna-v1.1"
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    do(old, "repair")
    old.locator(".badge.repaired").wait_for(timeout=LONG_MS)
    old.locator(".faults").wait_for(state="detached", timeout=LONG_MS)
    assert (app.models_dir / "vicuna-7b-v1.1" / "chat_template.jinja").is_file()
    do(old, "check")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#models .model')].some(one => /noted for|all good/.test(one.innerText))",
        timeout=LONG_MS,
    )
    old.locator("summary").focus()
    page.keyboard.press("Enter")
    old.locator("input[data-field=name]").fill("my-vicuna")
    page.keyboard.press("Enter")
    renamed = card(page, "my-vicuna")
    renamed.wait_for(timeout=LONG_MS)
    renamed.locator("summary").click()
    do(renamed, "delete")
    renamed.wait_for(state="detached", timeout=LONG_MS)
    assert len(asked) == 2
    assert sorted(path.name for path in app.models_dir.iterdir() if path.name[0] != ".") == ["toy"]


def test_an_export_opens_its_plan_and_the_path_can_be_copied(app: RunningApp, open_page: Callable[..., Any]) -> None:
    bare(app.models_dir / "mine")
    page = open_models(open_page, app, path=ADMIN)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    mine = card(page, "mine")
    mine.locator("summary").click()
    mine.locator("button[data-copy]").click()
    page.wait_for_function("text => navigator.clipboard.readText().then((found) => found === text)",
                           arg=str(app.models_dir / "mine"))  # fmt: skip
    do(mine, "meta")
    page.wait_for_selector("#receipt button[data-do=begin]", timeout=LONG_MS)
    page.click("#receipt button[data-do=begin]")
    page.wait_for_selector("#job [data-state=done]", timeout=LONG_MS)
    assert (app.models_dir / "mine-meta" / "consolidated.00.pth").is_file()
    page.locator("button[role=tab]").nth(2).click()
    card(page, "mine-meta").wait_for(timeout=LONG_MS)
    do(card(page, "mine"), "lora")
    page.wait_for_function("document.activeElement?.closest('#form-loras') !== null", timeout=LONG_MS)


def test_a_guest_on_a_phone_sees_the_shelf_without_paths_and_buttons(
    app: RunningApp, open_page: Callable[..., Any]
) -> None:
    pointer(app.models_dir / "<img src=x onerror=alert(1)>")
    page = open_models(open_page, app, width=390, locale="zh-CN", dark=True)
    card(page, "<img src=x onerror=alert(1)>").wait_for(timeout=LONG_MS)
    assert page.locator("#models button, #models summary").count() == 0
    assert str(app.data_dir) not in page.locator("#models").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator("#models img").count() == 0
