"""Bubbles, small print, greetings and suggested questions."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from backend.conversations import StoredMessage
from backend.engines.base import EngineState, EngineStatus, Finish, Usage, Waiting
from backend.library import ModelInfo
from backend.text import LANGUAGES
from ui.render.chat import WAITING, bubbles, figures, greeting, mark, plain, questions, queued, typed

REPLY = StoredMessage(2, "assistant", "Good day", "toy", Finish.STOP, Usage(9, 41, 0.25, 2.0), 0.0)
ASKED = StoredMessage(1, "user", "Hello\n- a\n  - b", "", None, Usage(), 0.0)


def test_messages_become_text_blocks_exactly_as_they_are() -> None:
    asked, replied = bubbles([ASKED, REPLY], "en")
    assert asked == {"role": "user", "content": [{"type": "text", "text": "Hello\n- a\n  - b"}]}
    assert [block["text"] for block in replied["content"]] == ["Good day", figures(REPLY, "en")]


def test_typed_html_is_seen_and_not_obeyed() -> None:
    text = "if a < b && <b>c</b> <!-- d --> &lt; <https://e> AT&T `<i>`"
    shown = bubbles([replace(ASKED, text=text)], "en")[0]["content"][0]["text"]
    assert not re.search("<[a-zA-Z/!]|&[a-z]+;", shown)
    assert shown.replace("\u2060", "") == text
    assert typed(shown) == text
    assert "a < b && " in shown
    assert bubbles([replace(REPLY, text="<b>c</b>")], "en")[0]["content"][0]["text"] == "<b>c</b>"


def test_a_reply_that_has_not_begun_shows_dots_and_one_that_grows_no_figures() -> None:
    growing = replace(REPLY, text="", finish=None)
    assert bubbles([growing], "en")[0]["content"] == [{"type": "text", "text": WAITING}]
    assert figures(replace(growing, text="Good"), "en") == ""


def test_a_plain_end_needs_no_explanation() -> None:
    assert figures(REPLY, "en") == (
        '<small class="figures">41 tokens &#183; 20 tokens/s &#183; first after 0&#46;2 s</small>'
    ).replace("&#183;", "·")


@pytest.mark.parametrize("finish", [one for one in Finish if one is not Finish.STOP])
@pytest.mark.parametrize("text", ["", "Good"])
@pytest.mark.parametrize("language", ["en", "zh-CN", "zh-TW"])
def test_every_other_end_is_explained(finish: Finish, text: str, language: str) -> None:
    said = figures(replace(REPLY, finish=finish, text=text), language)
    assert "<b>" in said
    assert "chat" not in said.replace("<small", "")
    assert "{" not in said


@pytest.mark.parametrize(("language", "page"), [("en", "page"), ("zh-CN", "页面"), ("zh-TW", "頁面")])
def test_who_has_only_reloaded_is_not_told_to_have_stopped(language: str, page: str) -> None:
    """Nobody can tell a page that has gone from one where Stop was pressed."""
    assert page in figures(replace(REPLY, text="", finish=Finish.CANCELLED), language)


def test_a_reply_says_which_loras_took_part() -> None:
    said = figures(replace(REPLY, loras=(("pirate", 1.0), ("<b>story_*", 0.5))), "en")
    assert said.startswith('<small class="figures">with pirate, &#60;b&#62;story&#95;&#42; × 0&#46;5 · 41 tokens')
    assert "41" not in figures(replace(REPLY, loras=(("pirate", 1.0),), usage=Usage()), "en")


def test_plain_text_stays_plain() -> None:
    assert plain("a*b <i> $x$ [y](z)") == "a&#42;b &#60;i&#62; &#36;x&#36; &#91;y&#93;&#40;z&#41;"


def test_the_mark_changes_with_what_is_shown() -> None:
    shown = mark("c", [ASKED, REPLY], "en")
    assert shown == mark("c", [ASKED, REPLY], "en")
    others = [
        mark("d", [ASKED, REPLY], "en"),
        mark("c", [ASKED], "en"),
        mark("c", [ASKED, REPLY], "zh-CN"),
        mark("c", [ASKED, replace(REPLY, text="Good day!")], "en"),
        mark("c", [ASKED, replace(REPLY, finish=None)], "en"),
    ]
    assert shown not in others
    assert len(set(others)) == len(others)


MODEL = ModelInfo("toy", Path("toy"), 1)
BROKEN = replace(MODEL, problem="library.raw")


@pytest.mark.parametrize(
    ("state", "models", "admin", "says"),
    [
        (EngineState.READY, [MODEL], False, "Say something"),
        (EngineState.LOADING, [MODEL], True, "is loading"),
        (EngineState.OFF, [MODEL], True, "press Load"),
        (EngineState.FAILED, [MODEL], True, "press Load"),
        (EngineState.OFF, [], True, "no model yet"),
        (EngineState.OFF, [BROKEN], True, "no model yet"),
        (EngineState.OFF, [MODEL], False, "administrator"),
    ],
)
def test_an_empty_conversation_says_what_to_do(
    state: EngineState, models: list[ModelInfo], admin: bool, says: str
) -> None:
    assert says in greeting(EngineStatus(state), models, "en", admin=admin)


def test_questions_come_in_the_readers_language_first() -> None:
    model = replace(MODEL, questions=(("en", "A?"), ("zh", "甲？"), ("en", "B?"), ("zh-CN", "乙？"), ("en", "C?")))
    assert questions(model, "zh-TW") == ["甲？", "乙？", "A?", "B?"]
    assert questions(model, "en") == ["A?", "B?", "C?", "甲？"]
    assert questions(None, "en") == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_whoever_waits_reads_the_place_and_the_time(language: str) -> None:
    assert queued(None, language) == WAITING
    third, first = queued(Waiting(3, 95.0), language), queued(Waiting(1), language)
    assert "2" in third
    assert "35" in third
    assert "ops." not in third + first
    assert third != first
