"""Whatever is sent is answered or refused with a reason: never a server error, never a value out of bounds (S14)."""

import json
import math
from functools import cache
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.api.schema import PublicRequest
from backend.engines.protocol import MAX_NEW_TOKENS
from tests.backend.api.fake import FakeEngine, app_of, ask

GOOD: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
HUGE = 10**400
NUMBERS = {
    "temperature": [-0.001, 5.001, HUGE, -HUGE, "x", [], {}],
    "top_p": [0, -1, 1.001, HUGE, "x"],
    "top_k": [-1, 1001, 1.5, HUGE, "x"],
    "repetition_penalty": [0, 0.09, 10.1, HUGE],
    "max_tokens": [0, -1, MAX_NEW_TOKENS + 1, 1.5, HUGE, "x"],
    "max_completion_tokens": [0, -1, MAX_NEW_TOKENS + 1],
    "n": [0, 2, -1, HUGE],
    "stop": [[""], "", ["x"] * 17, "x" * 1001, [5], 5, {"a": 1}, [["x"]]],
    "stream": ["maybe", 5, []],
    "stream_options": [5, "x", {"include_usage": "perhaps"}],
    "model": ["x" * 501, 5, []],
    "messages": [
        [], None, "hi", {}, 5, [5], [[]], [{}], [{"role": "user"}], [{"role": "tool", "content": "x"}], [{"role": 5}],
        [{"role": "user", "content": None}], [{"role": "user", "content": 5}], [{"role": ["user"], "content": "x"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
        [{"role": "user", "content": [{"type": "text", "text": 5}]}], [{"role": "user", "content": "x"}] * 2001,
        [{"role": "user", "content": "\ud800"}],
    ],
}  # fmt: skip


@cache
def app() -> FastAPI:
    return app_of(FakeEngine())


def send(raw: bytes, content_type: str = "application/json") -> Any:
    headers = {"content-type": content_type}
    return ask(app(), "POST", "/v1/chat/completions", content=raw, headers=headers)


CASES = [(name, value) for name, values in NUMBERS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}-{str(value)[:30]!r}" for name, value in CASES])
def test_every_field_has_its_bounds(name: str, value: Any) -> None:
    answer = send(json.dumps({**GOOD, name: value}).encode())
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert name.replace("max_completion_tokens", "max_tokens") in error["message"]
    assert len(error["message"]) < 1000


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"5", b"null", b'"x"', b"\xff\xfe\xfd", b"[" * 200_000, b'{"a":' * 50_000, b"NaN",
     b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
     b'{"messages": [{"role": "user", "content": "x"}], "temperature": Infinity}',
     b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
     b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": ' + b"9" * 10_000 + b"}"],
    ids=lambda raw: str(raw[:40]),
)  # fmt: skip
def test_bodies_that_are_no_request(raw: bytes) -> None:
    answer = send(raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_read(kind: str) -> None:
    assert send(json.dumps(GOOD).encode(), kind).status_code == 400


def test_a_long_text_is_read_quickly() -> None:
    text = "x" * 3_000_000
    assert send(json.dumps({**GOOD, "messages": [{"role": "user", "content": text}]}).encode()).status_code == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "developer", "tool"]) | json_values},
        optional={"content": st.text() | json_values, "name": json_values},
    )
    | json_values,
    max_size=4,
)
bodies = st.fixed_dictionaries(
    {"messages": messages | json_values},
    optional={name: json_values for name in [*NUMBERS, "seed", "logit_bias", "tools"] if name != "messages"},
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies)
def test_anything_is_answered_or_refused(body: Any) -> None:
    answer = send(json.dumps(body).encode())
    assert answer.status_code in {200, 400, 404}, (body, answer.text)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(NUMBERS, json_values)))
def test_what_passes_is_in_bounds(body: Any) -> None:
    try:
        asked = PublicRequest.model_validate({**body, "messages": GOOD["messages"]})
    except ValueError:
        return
    sampling = asked.sampling()
    assert math.isfinite(sampling.temperature)
    assert 0 <= sampling.temperature <= 5
    assert 0 < sampling.top_p <= 1
    assert 0 <= sampling.top_k <= 1000
    assert 1 <= sampling.max_new_tokens <= MAX_NEW_TOKENS
    assert asked.n == 1
    assert all(asked.stop)
