"""Downloading in real Chromium, from a stand-in hub: names typed, a download watched, paused and cancelled."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.conftest import ROOT, RunningApp, free_port
from tests.browser.test_setup import READY_MS, fits, form, open_form, open_setup, press, text, wait_state
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
    open_form(page)
    for name, value in fields.items():
        page.fill(form(name), value)


def test_two_names_a_download_and_a_pause(app: RunningApp, hub: Hub, open_page: Callable[..., Any]) -> None:
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
    assert len(text(page, "#job .answered")) > 10


def test_a_gated_model_asks_for_a_token_and_a_cancelled_one_leaves_nothing(
    app: RunningApp, hub: Hub, open_page: Callable[..., Any]
) -> None:
    page = open_setup(open_page, app, locale="zh-CN", width=390, dark=True)
    fill(page, base="cria/gated", name="gated")
    page.click("#form-show")
    page.locator("#form-problem [role=alert]", has_text="许可").wait_for(timeout=READY_MS)
    assert fits(page)
    assert page.get_attribute("#access-token input", "type") == "password"  # the box with it unfolds by itself
    page.fill("#access-token input", TOKEN)
    page.click("#form-show")
    page.wait_for_selector("#receipt .totals", timeout=READY_MS)
    press(page, "#receipt", "begin")
    page.wait_for_selector("#job .step.running")
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.wait_for_function("() => document.querySelector('#job .step.running .figures')?.innerText.includes('MB/s')")
    job = next((app.data_dir / "jobs").glob("*-gated-*"))
    assert TOKEN not in (job / "plan.json").read_text("utf-8") + (job / "journal.jsonl").read_text("utf-8")
    press(page, "#job", "cancel")
    page.wait_for_selector("#path ol:not([data-stage=run])", timeout=READY_MS)
    assert "暂停" in asked[0], "it says how to keep everything"
    assert not job.exists()
    assert not (app.models_dir / "gated").exists()
    assert not [path for path in (app.data_dir / "downloads").rglob("*.pth*") if "gated" in str(path)]
    assert {entry.origin for entry in hub.log if entry.token} == {hub.url.removeprefix("http://")}


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
