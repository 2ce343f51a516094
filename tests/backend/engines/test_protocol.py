"""Requests are bounded, extra fields are ignored, errors survive the wire."""

import json

import pytest
from pydantic import ValidationError

from backend.engines import protocol
from backend.engines.base import ChatMessage, Finish, Sampling, Usage
from backend.engines.client import _Ended, _error, _refusal
from backend.errors import ContextFull, EngineError, UsageError

MESSAGES = [ChatMessage("system", "be nice"), ChatMessage("user", "你好")]


@pytest.mark.parametrize("loras", [None, (), (("ada", 0.5), ("bob", -1.0))])
def test_a_request_comes_through_unchanged(loras: tuple[tuple[str, float], ...] | None) -> None:
    sampling = Sampling(0.5, 0.9, 12, 1.2, 99, loras)
    body = json.loads(json.dumps(protocol.request_json(MESSAGES, sampling, model="m")))
    request = protocol.ChatRequest.model_validate({**body, "unheard_of": [1]})
    assert list(request.chat_messages()) == MESSAGES
    assert request.sampling() == sampling
    assert request.stream


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -0.1}, {"temperature": 99}, {"temperature": float("nan")}, {"temperature": "hot"},
        {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"top_k": 10**6}, {"repetition_penalty": 0},
        {"repetition_penalty": float("inf")}, {"max_tokens": 0}, {"max_tokens": 10**9}, {"messages": []},
        {"messages": [{"role": "root", "content": "x"}]}, {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": "x"}] * (protocol.MAX_MESSAGES + 1)},
        {"messages": [{"role": "user", "content": "x" * (protocol.MAX_TEXT + 1)}]},
    ],
)  # fmt: skip
def test_absurd_values_are_refused(change: dict[str, object]) -> None:
    body = protocol.request_json(MESSAGES, Sampling(), model="m")
    with pytest.raises(ValidationError):
        protocol.ChatRequest.model_validate({**body, **change})


def test_an_error_survives_the_wire() -> None:
    error = ContextFull("engine.context_full", prompt=3000, room=0, context=2048)
    body = protocol.error_body(error)
    assert "3000" in body["error"]["message"]
    back = _refusal(protocol.error_status(error), json.dumps(body).encode())
    assert isinstance(back, ContextFull)
    assert (back.key, back.params) == (error.key, error.params)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("engine.empty_message"), 400),
        (EngineError("engine.queue_full", waiting=9), 429),
        (EngineError("engine.not_ready"), 503),
        (EngineError("engine.no_key"), 401),
        (EngineError("engine.computation_failed", what="x"), 500),
    ],
)
def test_statuses(error: EngineError, status: int) -> None:
    assert protocol.error_status(error) == status


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "plain"}', b'{"error": {"message": "plain"}}'])
def test_a_strangers_error_is_shown_as_it_is(body: bytes) -> None:
    error = _refusal(502, body)
    assert error.key == "engine.refused"
    assert error.params["status"] == 502


def test_an_unknown_record_is_still_an_error() -> None:
    assert _error(None, 500).key == "engine.refused"


def test_usage_may_come_after_the_finish_as_openai_sends_it() -> None:
    ended = _Ended()
    texts = [
        ended.take({"choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]}),
        ended.take({"choices": [{"delta": {"content": "Hi"}, "finish_reason": None}], "usage": None}),
        ended.take({"choices": [{"delta": {}, "finish_reason": "content_filter"}]}),
        ended.take({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}),
    ]
    assert texts == ["", "Hi", "", ""]
    assert (ended.finish, ended.usage, ended.tokens) == (Finish.STOP, Usage(5, 7), 1)


def test_a_reply_that_is_cut_short_has_its_times_in_every_chunk() -> None:
    head = protocol.reply_head("id", "m", 0, streaming=True)
    ended = _Ended()
    ended.take(json.loads(json.dumps(protocol.chunk_json(head, "a", tokens=9, times=(0.5, 1.5)))))
    assert ended.so_far == Usage(0, 9, 0.5, 1.5)
    assert ended.usage is None
    ended.take(protocol.chunk_json(head, "a", tokens=10))
    assert ended.so_far is None


def test_a_speed_is_told_only_of_a_time_that_is_long_enough() -> None:
    assert Usage(5, 41, 0.1, 0.015).tokens_per_s == 0
    assert Usage(5, 41, 0.1, 0.4).tokens_per_s == pytest.approx(100)
    assert Usage(5, 1, 0.1, 0.4).tokens_per_s == 0


def test_events_are_ascii_so_that_no_separator_hides_in_the_text() -> None:
    event = protocol.sse({"text": "a\u2028b\n你"})
    assert event.isascii()
    assert event.count(b"\n") == 2
