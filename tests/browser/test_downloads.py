"""Downloading in real Chromium, from a stand-in hub: names typed, a download watched and paused, a chat at the end."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.conftest import ROOT, RunningApp, free_port
from tests.browser.test_chat import BOX
from tests.browser.test_setup import READY_MS, expected, fits, open_setup, press, text, wait_state
from tests.hub.family import demo
from tests.hub.server import Hub

pytestmark = pytest.mark.browser

RATE = 2_000_000  # bytes a second
TOKEN = "hf_granted"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub(rate=RATE) as served:
        for member in ("base", "delta"):
            served.add(f"cria/demo-{member}", demo(member))
        served.add("cria/gated", demo("base"), gated=True)
        served.tokens[TOKEN] = True
        yield served


@pytest.fixture(scope="module")
def app(start_app: Callable[..., RunningApp], hub: Hub) -> RunningApp:
    """The app on localhost, which gets weights from the stand-in."""
    return start_app("--hub", hub.url)


def fill(page: Any, **fields: str) -> None:
    page.click("#own-folders button")
    page.wait_for_selector("#form-show")
    for name, value in fields.items():
        page.fill(f"#form-{name} textarea, #form-{name} input", value)


def test_two_names_a_download_a_pause_and_a_chat(app: RunningApp, hub: Hub, open_page: Callable[..., Any]) -> None:
    page = open_setup(open_page, app)
    fill(page, base="cria/demo-base", delta="cria/demo-delta", name="fetched")
    page.click("#form-show")
    page.wait_for_selector("#receipt .totals")
    assert "10.9 MB" in text(page, "#receipt .totals")
    assert "5.4 MB" in text(page, "#receipt [data-part='0']")
    press(page, "#receipt", "begin")
    page.wait_for_selector("#job details[data-keep=fetch]")
    page.click("#job details[data-keep=fetch] summary")
    before = text(page, "#job .step.running .figures")
    page.wait_for_function(
        "before => document.querySelector('#job .step.running .figures')?.innerText !== before", arg=before
    )
    assert page.evaluate("document.querySelector('#job details[data-keep=fetch]').open"), "a redraw folded it"
    assert page.locator("#job ul.files li").count() >= 1
    press(page, "#job", "pause")
    wait_state(page, "cancelled")
    assert "Press Resume" in text(page, "#job .status")
    page.click("#stored-box button")
    page.wait_for_selector("#stored li:has-text('needed by fetched')")
    sent = hub.sent()
    press(page, "#job", "resume")
    wait_state(page, "done")
    assert hub.sent() - sent < 10_900_000, "Resume began anew"
    page.wait_for_selector("#stored li:has-text('not needed by any set-up')")
    page.once("dialog", lambda dialog: dialog.accept())
    press(page, "#stored", "delete-unused")
    page.wait_for_selector("#stored :text('Nothing that was downloaded is kept here.')")
    assert not list((app.data_dir / "downloads").rglob("*.bin"))
    press(page, "#job", "chat")
    page.wait_for_selector("#engine .engine.ready[data-model=fetched]", timeout=READY_MS)
    question = "What is a delta?"
    page.fill(BOX, question)
    page.press(BOX, "Enter")
    page.wait_for_selector("#chat small.figures", timeout=READY_MS)
    said = page.locator("#chat [data-testid=bot]").first.inner_text().lower()
    assert all(phrase in said for phrase in expected(question)), (question, said)


def test_a_gated_model_asks_for_a_token_and_goes_on_with_it(
    app: RunningApp, hub: Hub, open_page: Callable[..., Any]
) -> None:
    page = open_setup(open_page, app, locale="zh-CN", width=390, dark=True)
    fill(page, base="cria/gated", name="gated")
    page.click("#form-show")
    page.locator("#form-problem [role=alert]", has_text="许可").wait_for(timeout=READY_MS)
    page.wait_for_selector("#access-test")  # the fields for a token unfold by themselves
    page.click("#access-test")
    page.wait_for_selector("#access-answers li.answers")
    assert fits(page)
    assert page.get_attribute("#access-token input", "type") == "password"
    page.fill("#access-token input", TOKEN)
    page.click("#form-show")
    page.wait_for_selector("#receipt .totals", timeout=READY_MS)
    assert fits(page)
    press(page, "#receipt", "begin")
    wait_state(page, "done")
    assert {entry.origin for entry in hub.log if entry.token} == {hub.url.removeprefix("http://")}
    job = next((app.data_dir / "jobs").glob("*-gated-*"))
    assert TOKEN not in (job / "plan.json").read_text("utf-8") + (job / "journal.jsonl").read_text("utf-8")


def test_a_second_app_on_the_same_folder_says_so(app: RunningApp, open_page: Callable[..., Any]) -> None:
    port = free_port()
    command = [sys.executable, str(ROOT / "app.py"), "--data-dir", str(app.data_dir), "--listen-port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as second:
        assert second.stderr is not None
        try:
            told = next(line for line in second.stderr if "Another Cria" in line)
        finally:
            second.send_signal(signal.SIGTERM)
    assert f"process {app.process.pid}" in told
    assert f":{app.port}/" in told
