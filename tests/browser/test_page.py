"""The page around the tabs in real Chromium: languages, themes, phones, and strangers on a shared server."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import RunningApp

pytestmark = pytest.mark.browser

TOKEN = "a-token-for-the-tests-0123456789"


@pytest.mark.parametrize(
    ("locale", "language", "send", "title"),
    [
        ("en-GB", "en", "Send", "from raw weights"),
        ("zh-CN", "zh-CN", "发送", "原始权重"),
        ("zh-HK", "zh-TW", "傳送", "原始權重"),
    ],
)
def test_the_page_speaks_the_browsers_language(
    echo_app: RunningApp, open_page: Callable[..., Any], locale: str, language: str, send: str, title: str
) -> None:
    page = open_page(echo_app, locale=locale)
    page.locator("#send").filter(has_text=send).wait_for()
    assert page.evaluate("document.documentElement.lang") == language
    assert title in page.title()
    page.wait_for_function("code => document.querySelector('#language')?.value === code", arg=language)
    body = page.locator("body").inner_text()
    assert not re.search(r"\b(chat|setup|ui|cria)\.[a-z_]+\b", body.replace("cria.sqlite", "")), "a bare key is shown"


def test_language_and_theme_can_be_chosen_and_are_remembered(
    echo_app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_page(echo_app)
    assert not page.evaluate("document.body.classList.contains('dark')")
    page.click("#theme")
    assert page.evaluate("document.body.classList.contains('dark')")
    page.locator("#language").select_option("zh-TW")
    page.locator("#send").filter(has_text="傳送").wait_for()
    page.reload()
    page.locator("#send").filter(has_text="傳送").wait_for()
    page.wait_for_function("() => document.body.classList.contains('dark')")


CONTRAST = """() => {
  // WCAG 2 contrast of every visible text against the nearest painted background.
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => v <= 10.0164 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.reduce((sum, v, i) => sum + linear(v) * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(one).backgroundColor);
      if (r === undefined || a === 0) continue;
      layers.push([r, g, b, a]);
      if (a === 1) break;
    }
    const over = (under, [r, g, b, a]) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
    return layers.reverse().reduce(over, [255, 255, 255]);
  };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    const said = walk.currentNode.textContent.trim();
    if (!said || !node.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
    if (node.closest('[disabled], script, style')) continue;
    const style = getComputedStyle(node);
    const under = behind(node);
    const [r, g, b, a = 1] = parse(style.color);
    let opacity = a;
    for (let one = node; one; one = one.parentElement) opacity *= Number(getComputedStyle(one).opacity);
    const text = [r, g, b].map((v, i) => v * opacity + under[i] * (1 - opacity));
    const [hi, lo] = [light(text), light(under)].sort((x, y) => y - x);
    const ratio = (hi + 0.05) / (lo + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) bad.push(`${ratio.toFixed(2)} ${node.className} "${said.slice(0, 40)}"`);
  }
  return bad;
}"""


NAMELESS = """() => [...document.querySelectorAll('button, input, textarea, select')]
  .filter((one) => one.checkVisibility() && !one.textContent.trim() && !one.getAttribute('aria-label') && !one.title
    && !(one.labels && one.labels.length) && !one.getAttribute('aria-labelledby'))
  .map((one) => one.outerHTML.slice(0, 160))"""
SETTLED = """(text) => {
  const [chat, unfolded] = [document.querySelector('#sampling .open'), document.querySelector('#options .open')];
  return document.getAnimations().every((one) => one.playState !== 'running' || one.effect.getTiming().iterations > 9)
    && (!text || (chat && unfolded));
}"""


def open_tab(page: Any, name: str) -> None:
    page.locator("button[role=tab]").filter(has_text=name).click()
    page.wait_for_function(SETTLED, arg=name == "Chat")


def widths(page: Any) -> list[int]:
    """Return the widths of a phone, a tablet and a screen at which something sticks out to the right."""
    found = []
    for width in (390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(SETTLED, arg=False)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            found.append(width)
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read_and_nothing_sticks_out(
    echo_app: RunningApp, open_page: Callable[..., Any], dark: bool
) -> None:
    page = open_page(echo_app, ready=True, dark=dark)
    page.wait_for_function("dark => document.body.classList.contains('dark') === dark", arg=dark)
    page.fill("#box textarea", "A question with `code` and a [link](https://example.org)\n\n```python\nx = 1\n```")
    page.press("#box textarea", "Enter")
    page.wait_for_selector("#chat small.figures")
    for name in ("#options", "#sampling"):
        page.locator(f"{name} button").first.click()
    page.mouse.move(0, 0)
    for tab in ("Chat", "Setup", "Models"):
        open_tab(page, tab)
        faint = [one for one in page.evaluate(CONTRAST) if "token" not in one.split('"')[0]]  # code: gradio's colours
        assert not faint, tab
        assert not page.evaluate(NAMELESS), tab
        assert not widths(page), tab
    assert page.locator("h1").count() == 1


@pytest.fixture(scope="module")
def shared_app(start_app: Callable[..., RunningApp]) -> RunningApp:
    flags = ("--listen", "--admin-token", TOKEN, "--allow-host", "127.0.0.1", "--engine", "echo", "--model", "toy")
    return start_app(*flags, models=("toy",))


def test_a_stranger_chats_and_changes_nothing_until_the_token_opens_the_door(
    shared_app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_page(shared_app)
    page.locator("#engine").filter(has_text="toy is ready").wait_for()
    page.fill("#box textarea", "hello")
    page.press("#box textarea", "Enter")
    page.wait_for_selector("#chat small.figures")
    for name in ("#load", "#unload", "#options", "#model"):
        assert not page.locator(name).is_visible(), name
    assert page.locator("#sampling").is_visible()
    assert TOKEN not in page.content()
    page.click("#admin summary")
    page.fill("#token", "not the token")
    page.click("#admin button[type=submit]")
    page.locator("#admin output").filter(has_text="not the token").wait_for()
    page.faults.console.clear()  # Chromium logs the 401 or 403 of the refusal
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.locator("#load").wait_for()
    page.click("#unload")
    page.locator("#engine").filter(has_text="No model is loaded").wait_for()
    page.click("#load")
    page.locator("#engine").filter(has_text="toy is ready").wait_for()
    page.click("#leave")
    page.locator("#admin summary").wait_for()
    page.locator("#load").wait_for(state="hidden")


def test_the_link_with_the_token_makes_an_administrator(shared_app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_page(shared_app, path=f"?token={TOKEN}")
    page.locator("#load").wait_for()
    assert TOKEN not in page.url
