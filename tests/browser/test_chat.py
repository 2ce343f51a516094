"""The Chat tab in real Chromium, on the real app with the echo engine: what a visitor does and sees."""

import re
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.browser.conftest import RunningApp, toy_model
from tests.browser.history import fill_history

pytestmark = pytest.mark.browser

BOX, SEND, STOP = "#box textarea", "#send", "#stop"
LONG = " ".join(f"word{number}" for number in range(400))


def say(page: Any, text: str) -> None:
    """Send a message. gradio lets a press go by while it finishes the one before: Enter until the box is empty."""
    page.fill(BOX, text)
    for _ in range(20):
        page.press(BOX, "Enter")
        for _ in range(30):
            if page.input_value(BOX) != text:
                return
            page.wait_for_timeout(100)
    pytest.fail(f"nobody takes {text!r}")


def say_in_vain(page: Any, text: str, words: str | re.Pattern[str]) -> None:
    """Send a message that is refused with some words."""
    page.fill(BOX, text)
    press_until(page, SEND, is_said(page, words))


def bots(page: Any) -> Any:
    return page.locator("#chat [data-testid=bot]")


def users(page: Any) -> Any:
    return page.locator("#chat [data-testid=user]")


def wait_figures(page: Any, count: int = 1) -> None:
    """Wait until ``count`` replies have ended."""
    page.wait_for_function("n => document.querySelectorAll('#chat small.figures').length >= n", arg=count)


def wait_text(page: Any, selector: str, pattern: str) -> None:
    page.locator(selector).filter(has_text=re.compile(pattern)).first.wait_for()


@pytest.fixture(scope="module")
def fast_app(start_app: Callable[..., RunningApp], tmp_path_factory: pytest.TempPathFactory) -> RunningApp:
    """One model on the shelf, and loaded; the echo speaks 20 words a second."""
    data = tmp_path_factory.mktemp("chat") / "data"
    questions = [["en", "What is a delta?"], ["zh", "什么是 delta？"], ["en", "Why 8-bit?"]]
    toy_model(data / "models", "toy", echo={"words_per_s": 20}, questions=questions)
    return start_app("--engine", "echo", "--model", "toy", data_dir=data)


# What gradio does to a field that has just come onto the page: its first value once more.
TAKE_BACK = """() => {
  const box = document.querySelector('#box textarea');
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(box, '');
  box.dispatchEvent(new Event('input', {bubbles: true}));
}"""


def fill_for_good(page: Any, selector: str, text: str) -> None:
    """Fill a field that has just been put on the page: it is given its old value once more, some time later."""
    page.wait_for_selector(selector)
    page.wait_for_function(
        """([selector, text]) => {
          const field = document.querySelector(selector);
          if (field.value !== text) {
            const kind = field.tagName === 'TEXTAREA' ? HTMLTextAreaElement : HTMLInputElement;
            Object.getOwnPropertyDescriptor(kind.prototype, 'value').set.call(field, text);
            field.dispatchEvent(new Event('input', {bubbles: true}));
            window.held = 0;
          }
          return (window.held = (window.held ?? 0) + 1) > 20;
        }""",
        arg=[selector, text],
        polling=50,
    )


def answer_dialogs(page: Any, *, no: int) -> list[str]:
    """Answer the page's questions from now on, the first ``no`` of them with no; return what was asked, as it comes."""
    asked: list[str] = []

    def answer(dialog: Any) -> None:
        asked.append(dialog.message)
        dialog.dismiss() if len(asked) <= no else dialog.accept()

    page.on("dialog", answer)
    return asked


def press_until(page: Any, selector: str, happened: Callable[[], bool]) -> None:
    """Press a button until it is heard: it rests while the page deals with the press before."""
    for _ in range(20):
        page.click(selector)
        for _ in range(30):
            if happened():
                return
            page.wait_for_timeout(100)
    pytest.fail(f"{selector} does nothing")


def is_said(page: Any, words: str | re.Pattern[str]) -> Callable[[], bool]:
    return lambda: page.locator("#notice").filter(has_text=words).count() > 0


def test_a_message_is_answered_survives_a_reload_and_is_copied_as_typed(
    fast_app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_page(fast_app, ready=True)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(BOX).click()
    page.keyboard.type("Good morning &")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("<b>hello</b>")
    page.evaluate(TAKE_BACK)
    page.wait_for_function("() => document.querySelector('#box textarea').value === 'Good morning &\\n<b>hello</b>'")
    page.keyboard.press("Enter")
    wait_figures(page)
    assert "Good morning" in bots(page).first.inner_text()
    assert page.input_value(BOX) == ""
    assert users(page).first.inner_text().replace("\u2060", "").split() == ["Good", "morning", "&", "<b>hello</b>"]
    assert users(page).locator("b").count() == 0
    assert re.search(r"\d+ tokens · [\d.,]+ tokens/s", page.locator("#chat small.figures").inner_text())
    for copied in ("() => navigator.clipboard.writeText(document.querySelector('#chat [data-testid=user]').innerText)",
                   "() => { getSelection().selectAllChildren(document.querySelector('#chat [data-testid=user]'));"
                   " document.execCommand('copy'); }"):  # fmt: skip
        page.evaluate("() => navigator.clipboard.writeText('')")
        page.evaluate(copied)
        assert page.evaluate("() => navigator.clipboard.readText()").split()[-1] == "<b>hello</b>"
    keep = "() => { window.cria.keepDrafts(); return Object.values(JSON.parse(sessionStorage['cria-drafts']).typed); }"
    assert page.evaluate(keep) == []  # what was sent is no draft any more
    page.reload()
    page.wait_for_selector("#chat small.figures")
    assert users(page).count() == 1
    assert page.locator("button[role=tab][aria-selected=true]").inner_text() == "Chat"
    wait_text(page, "#engine", "toy is ready")
    assert page.input_value(BOX) == ""


def test_conversations_are_private_models_are_not_and_a_second_tab_follows(
    fast_app: RunningApp, open_page: Callable[..., Any]
) -> None:
    mine, other = open_page(fast_app, ready=True), open_page(fast_app, ready=True)
    second = open_page(fast_app, context=mine.context)
    for number in range(1, 3):
        say(mine, f"secret {number}")
        wait_figures(mine, number)
    second.wait_for_function("() => document.querySelectorAll('#chat small.figures').length === 2")
    assert users(second).all_inner_texts() == ["secret 1", "secret 2"]
    assert not second.locator("#earlier").is_visible()
    other.reload()
    wait_text(other, "#engine", "toy is ready")
    assert "secret" not in other.locator("#chat").inner_text()
    assert users(other).count() == 0


def test_a_refused_regenerate_keeps_the_reply_and_a_refused_message_is_stored_never(
    fast_app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_page(fast_app, ready=True)
    say(page, "keep my answer")
    wait_figures(page)
    page.locator("#sampling button").first.click()
    fill_for_good(page, "#system textarea", "x" * 25_000)
    press_until(page, "#chat-retry", is_said(page, re.compile("25,?000")))
    for _ in range(2):
        page.click("#notice button")
        page.locator("#notice .notice").wait_for(state="detached")
        say_in_vain(page, "and again", re.compile("25,?000"))
    page.reload()
    page.wait_for_selector("#chat small.figures")
    assert users(page).all_inner_texts() == ["keep my answer"]
    assert "keep my answer" in bots(page).first.inner_text()


def test_stop_and_a_reload_in_mid_reply_keep_what_was_said(fast_app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_page(fast_app, ready=True)
    say(page, LONG)
    wait_text(page, "#chat [data-testid=bot]", "word5")
    page.click(STOP)
    wait_figures(page)
    assert "Stopped." in page.locator("#chat small.figures").inner_text()
    said = bots(page).first.inner_text()
    assert "word5" in said
    assert "word399" not in said
    page.locator(SEND).wait_for()
    wait_text(page, "#engine", "0 answering")
    say(page, LONG.replace("word", "more"))
    wait_text(page, "#chat [data-testid=bot]", "more5")
    page.reload()
    wait_figures(page, 2)
    page.faults.console.clear()  # gradio itself complains when a page is left while it streams
    assert "Stopped." in page.locator("#chat small.figures").last.inner_text()
    wait_text(page, "#chat [data-testid=bot]", "more5")
    wait_text(page, "#engine", "0 answering")


def test_regenerate_undo_edit_and_clear(fast_app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_page(fast_app, ready=True)
    press_until(page, "#chat-retry", is_said(page, "nothing to answer again"))
    page.click("#notice button")
    say(page, "first")
    wait_figures(page)
    say(page, "second")
    wait_figures(page, 2)
    press_until(page, "#chat-retry", lambda: page.locator("#chat small.figures").count() == 1)
    wait_figures(page, 2)
    assert users(page).count() == 2

    page.locator("#chat .user-row").first.locator("button[aria-label=Edit]").click()
    page.locator("#chat textarea").fill("changed")
    page.locator("#chat button[aria-label=Submit]").click()
    wait_text(page, "#chat [data-testid=bot]", "changed")
    wait_figures(page)
    assert users(page).all_inner_texts() == ["changed"]

    press_until(page, "#chat-undo", lambda: page.input_value(BOX) == "changed")
    assert users(page).count() == 0
    say(page, "again")
    wait_figures(page)
    asked = answer_dialogs(page, no=1)
    press_until(page, "#chat-clear", lambda: len(asked) == 1)
    assert users(page).count() == 1
    press_until(page, "#chat-clear", lambda: len(asked) == 2)
    page.wait_for_function("() => !document.querySelector('#chat [data-testid=user]')")
    page.reload()
    page.wait_for_selector("#chat .example")
    assert users(page).count() == 0


def test_bad_messages_are_said_and_stay_in_the_box(fast_app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_page(fast_app, ready=True)
    page.click(SEND)
    page.fill(BOX, "   ")
    page.press(BOX, "Enter")
    say_in_vain(page, "x" * 200_001, "200")  # nothing was said of those before, and nothing was sent
    assert users(page).count() == 0
    assert page.locator("#notice .notice").count() == 1
    assert len(page.input_value(BOX)) == 200_001
    page.click("#notice button")
    say(page, "word " * 5000)
    wait_text(page, "#chat small.figures", "too long for this model")
    wait_text(page, "#notice", "context")


def test_suggested_questions_in_the_readers_language(fast_app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_page(fast_app, ready=True, locale="zh-TW")
    page.wait_for_selector("#chat .example")
    assert page.locator("#chat .example").all_inner_texts() == ["什么是 delta？", "What is a delta?", "Why 8-bit?"]
    page.locator("#chat .example").first.click()
    wait_figures(page)
    assert users(page).all_inner_texts() == ["什么是 delta？"]


def test_models_are_loaded_and_a_long_talk_is_paged(
    start_app: Callable[..., RunningApp], open_page: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("load") / "data"
    toy_model(data / "models", "slow", echo={"load_s": 3, "words_per_s": 200})
    toy_model(data / "models", "old", made="2020-01-01T00:00:00")
    page = open_page(app := start_app("--engine", "echo", data_dir=data))
    page.click("button[role=tab]:has-text('Chat')")
    wait_text(page, "#chat", "Load a model")
    say_in_vain(page, "anybody there?", "No model is loaded")
    assert page.input_value(BOX) == "anybody there?"
    page.locator("#options button").first.click()

    def choose(name: str) -> None:
        page.click("#model input")
        page.locator("#model [role=option]", has_text=name).click()

    choose("old")
    choose("slow")
    fill_for_good(page, "#context input", "-3")
    press_until(page, "#load", is_said(page, "-3"))
    page.fill("#context input", "")
    page.locator("#bits label").filter(has_text="8-bit").click()
    press_until(page, "#load", is_said(page, "8"))
    page.locator("#bits label").filter(has_text="16-bit").click()
    press_until(page, "#load", lambda: page.locator("#engine [role=progressbar]").count() > 0)
    other = open_page(app)
    wait_text(other, "#engine", "slow is ready")
    wait_text(page, "#engine", "slow is ready")
    press_until(page, SEND, lambda: page.input_value(BOX) == "")
    wait_figures(page)

    fill_history(data, turns=40)
    page.reload()
    page.locator("#earlier").wait_for()
    assert users(page).count() + page.locator("#chat .bot-row").count() == 60
    page.click("#earlier")
    page.wait_for_function("() => document.querySelectorAll('#chat [data-testid=user]').length === 41")
    assert users(page).first.text_content().strip() == "anybody there?"  # not drawn while it is far out of sight
    page.locator("#earlier").wait_for(state="hidden")
    page.click("#unload")
    wait_text(page, "#engine", "No model is loaded")
    wait_text(other, "#engine", "No model is loaded")


def test_an_engine_that_dies_in_mid_reply_is_said_and_loses_nothing(
    fast_app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_page(fast_app, ready=True)
    say(page, LONG)
    wait_text(page, "#chat [data-testid=bot]", "word5")
    engines = [
        one
        for one in psutil.Process(fast_app.process.pid).children(recursive=True)
        if "echo" in " ".join(one.cmdline())
    ]
    assert len(engines) == 1
    engines[0].kill()
    wait_figures(page)
    assert "what it had said is kept" in page.locator("#chat small.figures").inner_text()
    assert "word5" in bots(page).first.inner_text()
    wait_text(page, "#engine", "Restarted at")  # it is loaded again by itself
    assert "Traceback" not in page.content()
    page.wait_for_selector("#engine .engine.ready")
    if page.locator("#notice button").is_visible():
        page.click("#notice button")
    press_until(page, "#chat-retry", page.locator(STOP).is_visible)  # from now on the page shows the new reply
    wait_text(page, "#chat [data-testid=bot]", "word2")
    page.click(STOP)
    wait_figures(page)
