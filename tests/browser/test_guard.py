"""The guard in real Chromium: gradio 6.31 works behind it, and other sites reach nothing (S2, S3)."""

import contextlib
import functools
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import REBOUND, ROOT, Faults, free_port

pytestmark = pytest.mark.browser
TOKEN = "browser-test-token"


def state(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        return json.load(answer)


def wait_until(port: int, what: str, least: int) -> dict[str, int]:
    deadline = time.monotonic() + 60
    while (found := state(port))[what] < least and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found[what] >= least, found
    return found


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "tests.browser.guarded_page", str(port), *flags]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                state(port)
                break
            assert process.poll() is None, "the small page did not start"
            assert time.monotonic() < deadline, "the small page did not start in time"
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def open_port() -> Iterator[int]:
    with serving() as port:
        yield port


@pytest.fixture(scope="module")
def token_port() -> Iterator[int]:
    with serving(TOKEN) as port:
        yield port


def visit(browser: Any, port: int, path: str = "/", context: Any = None) -> Any:
    """Open the page as a new visitor (or as ``context``); notes refused requests in ``page.refused``."""
    context = context or browser.new_context()
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.faults, page.refused = Faults(), []
    page.faults.watch(page, port)
    page.on("response", lambda got: got.status >= 400 and page.refused.append(f"{got.status} {got.url}"))
    page.goto(f"http://127.0.0.1:{port}{path}")
    page.wait_for_selector("h1")
    return page


def text_of(page: Any, elem_id: str) -> str:
    return str(page.locator(f"#{elem_id} textarea, #{elem_id} input").first.input_value())


def wait_for_text(page: Any, elem_id: str, part: str) -> str:
    page.wait_for_function(
        "([id, part]) => { const e = document.querySelector(`#${id} textarea, #${id} input`);"
        " return e && e.value.includes(part) }",
        arg=[elem_id, part],
    )
    return text_of(page, elem_id)


def test_gradio_works_behind_the_guard(chromium: Any, open_port: int) -> None:
    page = visit(chromium, open_port)
    wait_for_text(page, "facts", "admin 1")
    first = wait_for_text(page, "counter", "tick")
    page.wait_for_function(
        "(old) => document.querySelector('#counter textarea, #counter input').value !== old", arg=first
    )
    page.click("#forward")
    page.wait_for_selector("text=Here is the second step")
    page.click("#script")
    wait_for_text(page, "scripted", "ran in the browser")
    page.wait_for_selector("#html [data-loaded='1'], #html[data-loaded='1']", state="attached")

    before = state(open_port)
    page.fill("#box textarea, #box input", "hello")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat >> text=word3")  # streams: there are 400 words to come
    with page.expect_response(lambda got: "/gradio_api/reset" in got.url):  # the last thing a Stop sends
        page.click("#stop")
    after = wait_until(open_port, "ended", before["ended"] + 1)
    assert after["pieces"] < 200
    assert page.refused == []
    page.faults.check()
    page.context.close()


def test_closing_the_tab_stops_the_stream(chromium: Any, open_port: int) -> None:
    page = visit(chromium, open_port)
    before = state(open_port)
    page.fill("#box textarea, #box input", "hello")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat >> text=word3")
    page.context.close()
    assert wait_until(open_port, "ended", before["ended"] + 1)["pieces"] < 300


def test_the_token_link_makes_an_administrator_and_leaves_the_address(chromium: Any, token_port: int) -> None:
    stranger = visit(chromium, token_port)
    assert "cookies {}" in wait_for_text(stranger, "facts", "admin 0")
    page = visit(chromium, token_port, f"/?token={TOKEN}&__theme=light")
    assert page.url == f"http://127.0.0.1:{token_port}/?__theme=light"
    wait_for_text(page, "facts", "admin 1")
    page.reload()
    wait_for_text(page, "facts", "admin 1")
    for one in (stranger, page):
        assert one.refused == []
        one.faults.check()
        one.context.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def other_site(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A web site of somebody else's; its folder and its port (open it as http://localhost, ours is 127.0.0.1)."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, server.server_address[1]
    server.shutdown()
    server.server_close()


ATTACK = """
<iframe id="frame" src="BASE/"></iframe><img src="BASE/health"><script src="BASE/assets/x.js"></script>
<script>
const tries = [["GET", "/health"], ["GET", "/"], ["GET", "/gradio_api/queue/data?session_hash=x"],
  ["POST", "/gradio_api/queue/join"], ["POST", "/gradio_api/run/predict"], ["POST", "/admin/login"]];
const types = ["application/json", "text/plain", "application/x-www-form-urlencoded"];
(async () => {
  const read = [];
  for (const [method, path] of tries) for (const mode of ["cors", "no-cors"]) for (const type of types) {
    const sent = JSON.stringify({data: ["x"], fn_index: 3, session_hash: "x", token: "x"});
    const body = method === "POST" ? sent : undefined, headers = {"content-type": type};
    try {
      const got = await fetch("BASE" + path, {method, mode, body, credentials: "include", headers});
      if (got.type !== "opaque") read.push(method + " " + path + " " + got.status);
    } catch (problem) {}
  }
  document.title = JSON.stringify(read);
})();
</script>
"""


def test_another_site_keeps_the_visitor_of_its_link_and_reads_and_does_nothing(
    chromium: Any, open_port: int, other_site: tuple[Path, int]
) -> None:
    folder, port = other_site
    (folder / "index.html").write_text(f'<a id="go" href="http://127.0.0.1:{open_port}/">Cria</a>', encoding="utf-8")
    victim = visit(chromium, open_port)
    context, facts = victim.context, wait_for_text(victim, "facts", "admin 1")
    link = context.new_page()
    link.goto(f"http://localhost:{port}/index.html")
    link.click("#go")
    link.wait_for_selector("h1")
    assert wait_for_text(link, "facts", "admin 1") == facts
    victim.reload()
    assert wait_for_text(victim, "facts", "admin 1") == facts
    attack = ATTACK.replace("BASE", f"http://127.0.0.1:{open_port}")
    (folder / "attack.html").write_text(attack, encoding="utf-8")
    before = state(open_port)
    page = context.new_page()
    page.goto(f"http://localhost:{port}/attack.html")
    page.wait_for_function("document.title.startsWith('[')")
    assert json.loads(page.title()) == []
    frame = page.frames[1]
    assert "Guarded" not in frame.content()
    after = state(open_port)
    assert (after["started"], after["ended"]) == (before["started"], before["ended"])
    context.close()


def test_a_rebound_name_reaches_nothing(chromium: Any, open_port: int) -> None:
    page = chromium.new_page()
    answer = page.goto(f"http://{REBOUND}:{open_port}/")
    assert answer.status == 421
    assert f"--allow-host {REBOUND}" in page.inner_text("body")
    asked = "fetch('/gradio_api/run/predict', {method: 'POST', body: '{}'}).then((got) => got.status)"
    assert page.evaluate(asked) == 421
    page.context.close()
