"""The gateway as OpenAI's clients see it: shapes, errors, keys."""

import json
import logging
from typing import Any

import pytest

from backend.api import routes
from backend.engines.base import ChatMessage, EngineState, Finish, Piece, Sampling
from backend.errors import ContextFull, EngineError
from tests.backend.api.fake import USAGE, FakeEngine, app_of, ask, chat, events


def test_one_whole_answer() -> None:
    engine = FakeEngine()
    answer = chat(app_of(engine), max_tokens=7, temperature=0, top_p=0.5, top_k=3, repetition_penalty=1.2)
    body = answer.json()
    assert answer.status_code == 200
    assert (body["object"], body["model"]) == ("chat.completion", "toy")
    assert body["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    ]
    assert {name: body["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
    }
    assert engine.asked == [([ChatMessage("user", "hi")], Sampling(0.0, 0.5, 3, 1.2, 7))]
    assert engine.closed == 1


def test_a_stream() -> None:
    answer = chat(app_of(FakeEngine()), stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    *chunks, done = events(answer)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    *texts, last, usage = chunks
    assert texts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in texts) == "Hello"
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], USAGE.completion_tokens)


def test_counts_come_only_when_asked_for() -> None:
    chunks = events(chat(app_of(FakeEngine()), stream=True))[:-1]
    assert [chunk.get("usage") for chunk in chunks if chunk.get("usage")] == []
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("finish", "told"),
    [(Finish.STOP, "stop"), (Finish.LENGTH, "length"), (Finish.CONTEXT, "length"), (Finish.TIME, "length")],
)
def test_reasons_are_ones_that_clients_know(finish: Finish, told: str) -> None:
    engine = FakeEngine([Piece("a", 1), Piece("", 1, finish, USAGE)])
    assert chat(app_of(engine)).json()["choices"][0]["finish_reason"] == told
    assert events(chat(app_of(engine), stream=True))[-2]["choices"][0]["finish_reason"] == told


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "said"),
    [("lo w", "Hel"), (["xyz", "w"], "Hello "), ("never", "Hello world"), (["world!"], "Hello world"), ("H", "")],
)
def test_stop_strings_end_a_reply_and_its_computation(stop: Any, said: str, stream: bool) -> None:
    rest: list[Any] = [Piece(f"more {n}", 4 + n) for n in range(50)] if said != "Hello world" else []
    script = [Piece("Hel", 1), Piece("lo ", 2), Piece("world", 3), *rest, Piece("", 3, Finish.STOP, USAGE)]
    engine = FakeEngine(script)
    answer = chat(app_of(engine), stop=stop, stream=stream)
    if stream:
        chunks = events(answer)[:-1]
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        reason = chunks[-1]["choices"][0]["finish_reason"]
    else:
        text, reason = answer.json()["choices"][0]["message"]["content"], answer.json()["choices"][0]["finish_reason"]
    assert (text, reason) == (said, "stop")
    assert engine.closed == 1
    assert engine.made <= 4


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_older_and_other_ways_to_say_the_same() -> None:
    engine = FakeEngine()
    answer = ask(
        app_of(engine),
        "POST",
        "/v1/chat/completions",
        json={
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "a delta?"}],
                },
                {"role": "user", "content": "Please.", "name": "ann"},
            ],
            "max_completion_tokens": 9,
            "temperature": None,
            "stop": None,
            "stream": None,
            "user": "somebody",
            "logit_bias": {"5": 100},
            "tools": [{"type": "function"}],
            "frequency_penalty": 0.5,
        },
    )
    assert answer.status_code == 200
    (turns, sampling) = engine.asked[0]
    assert turns == [ChatMessage("system", "Be brief."), ChatMessage("user", "What is a delta?\n\nPlease.")]
    assert (sampling.max_new_tokens, sampling.temperature) == (9, Sampling().temperature)


def test_models() -> None:
    app = app_of(FakeEngine())
    listed = ask(app, "GET", "/v1/models").json()
    assert (listed["object"], [one["id"] for one in listed["data"]]) == ("list", ["toy"])
    assert ask(app, "GET", "/v1/models/toy").json()["id"] == "toy"
    assert ask(app, "GET", "/v1/models/other/one").status_code == 404
    assert ask(app_of(FakeEngine(state=EngineState.LOADING)), "GET", "/v1/models").json()["data"] == []


def test_health_says_nothing_else() -> None:
    app = app_of(FakeEngine(), api_key="k", admin_token="t")
    assert ask(app, "GET", "/health").json() == {"status": "ok", "engine": "ready"}


def error_of(answer: Any) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"]
    return answer.status_code, error["type"], error["code"]


@pytest.mark.parametrize("state", [EngineState.OFF, EngineState.STARTING, EngineState.LOADING, EngineState.FAILED])
def test_without_a_model_it_says_so(state: EngineState) -> None:
    for stream in (False, True):
        answer = chat(app_of(FakeEngine(state=state)), stream=stream)
        assert error_of(answer) == (503, "server_error", "model_not_loaded")
        assert answer.headers["retry-after"]


def test_another_model_is_not_found_rather_than_passed_off() -> None:
    answer = chat(app_of(FakeEngine()), model="gpt-5")
    assert error_of(answer) == (404, "not_found_error", "model_not_found")
    assert "toy" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (ContextFull("engine.context_full"), (400, "invalid_request_error", "context_length_exceeded")),
        (EngineError("engine.queue_full", waiting=64), (429, "rate_limit_error", "queue_full")),
        (EngineError("engine.lost", what="gone"), (500, "server_error", "engine.lost")),
        (ZeroDivisionError("secret detail"), (500, "server_error", "api.unexpected")),
    ],
)  # fmt: skip
def test_what_fails_before_the_first_word_has_a_status(problem: Exception, told: tuple[int, str, str]) -> None:
    for stream in (False, True):
        engine = FakeEngine([problem])
        answer = chat(app_of(engine), stream=stream)
        assert error_of(answer) == told
        assert "secret" not in answer.text
        assert engine.closed == 1


def test_what_fails_in_mid_reply_is_the_last_event() -> None:
    engine = FakeEngine([Piece("Hel", 1), EngineError("engine.lost", what="killed"), Piece("never", 2)])
    *_, text, last = events(chat(app_of(engine), stream=True))
    assert text["choices"][0]["delta"]["content"] == "Hel"
    assert last["error"]["code"] == "engine.lost"
    assert chat(app_of(engine)).status_code == 500


def test_the_engines_last_words_stay_on_the_server() -> None:
    died = EngineError("engine.died", how="9", log="in /home/ann/x.py")
    answer = chat(app_of(FakeEngine([died])))
    assert error_of(answer)[2] == "engine.died"
    assert "/home" not in answer.text
    *_, last = events(chat(app_of(FakeEngine([Piece("Hel", 1), died])), stream=True))
    assert last["error"]["code"] == "engine.died"
    assert "/home" not in json.dumps(last)


def test_an_unplanned_failure_is_said_and_its_reason_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine([Piece("Hel", 1), RuntimeError("secret detail")])
    with caplog.at_level(logging.ERROR):
        *_, last = events(chat(app_of(engine), stream=True))
    assert last["error"]["code"] == "api.unexpected"
    assert "secret" not in json.dumps(last)
    assert "secret detail" in caplog.text


def test_the_key_is_asked_for_everywhere_under_v1() -> None:
    app = app_of(FakeEngine(), api_key="s3cret-ключ")
    for wrong in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer s3cret"}, {"authorization": "s3cret"},
                  {"x-api-key": "s3cret"}):  # fmt: skip
        for method, path in (("GET", "/v1/models"), ("GET", "/v1/models/toy"), ("GET", "/v1/nothing")):
            assert error_of(ask(app, method, path, headers=wrong))[0] == 401
        assert error_of(chat(app, headers=wrong)) == (401, "authentication_error", "invalid_api_key")
    plain = app_of(FakeEngine(), api_key="s3cret")
    assert chat(plain, headers={"authorization": "Bearer s3cret"}).status_code == 200


def test_paths_that_are_not_there_answer_in_json() -> None:
    app = app_of(FakeEngine())
    for method, path in (("GET", "/v1/nothing"), ("POST", "/v1/embeddings"), ("GET", "/v1/chat/completions")):
        assert error_of(ask(app, method, path)) == (404, "not_found_error", "not_found")


def test_open_requests_are_bounded_and_places_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_OPEN", 0)
    answer = chat(app_of(FakeEngine()))
    assert error_of(answer) == (429, "rate_limit_error", "queue_full")
    assert answer.headers["retry-after"]
    monkeypatch.setattr(routes, "MAX_OPEN", 1)
    app = app_of(FakeEngine())
    for stream in (False, True, False):
        assert chat(app, stream=stream).status_code == 200
        assert chat(app, messages=[]).status_code == 400
    broken = app_of(FakeEngine([EngineError("engine.lost", what="x")]))
    assert [chat(broken).status_code for _ in range(3)] == [500] * 3


def test_no_text_can_break_an_event() -> None:
    nasty = "a\n\ndata: [DONE]\n\n\u2028\u2029\x85\r\n\x00😀"
    answer = chat(app_of(FakeEngine([Piece(nasty, 1), Piece("", 1, Finish.STOP, USAGE)])), stream=True)
    assert answer.text.isascii()
    assert [e["choices"][0]["delta"].get("content") for e in events(answer)[:-1]] == ["", nasty, None]
    assert json.dumps(events(answer)[-1]) == '"[DONE]"'
