"""Choosing LoRAs over the gateway: by the model's name, or as a mixture; what cannot be is a plain 400."""

import json
from dataclasses import replace
from typing import Any

import pytest

from backend.engines.base import EngineOptions, Lora
from tests.backend.api.fake import FakeEngine, app_of, ask, chat

JSON = {"Content-Type": "application/json"}
LORAS = (Lora("/x/ada", 0.5), Lora("/x/bob", 0.0))


class Attached(FakeEngine):
    """The fake engine with two adapters attached."""

    def status(self) -> Any:
        return replace(super().status(), options=EngineOptions(loras=LORAS))


def test_they_are_listed_as_models() -> None:
    listed = ask(app_of(Attached()), "GET", "/v1/models").json()["data"]
    assert [one["id"] for one in listed] == ["toy", "toy:ada", "toy:bob"]
    assert ask(app_of(Attached()), "GET", "/v1/models/toy:ada").json()["id"] == "toy:ada"
    assert ask(app_of(Attached()), "GET", "/v1/models/toy:carol").status_code == 400
    assert ask(app_of(Attached()), "GET", "/v1/models/other:ada").status_code == 404


@pytest.mark.parametrize(
    ("fields", "loras"),
    [
        ({}, None),
        ({"model": "toy"}, None),
        ({"model": "toy:ada"}, (("ada", 0.5),)),
        ({"model": "toy:bob"}, (("bob", 1.0),)),  # attached, and off until it is asked for
        ({"loras": {"bob": 2}}, (("bob", 2.0),)),
        ({"loras": {}}, ()),
        ({"loras": None}, None),
        ({"model": "toy:ada", "loras": {"bob": -1}}, (("bob", -1.0),)),
    ],
)
def test_what_the_engine_is_asked(fields: dict[str, Any], loras: object) -> None:
    engine = Attached()
    answer = chat(app_of(engine), **fields)
    assert answer.status_code == 200
    assert answer.json()["model"] == fields.get("model", "toy")
    assert engine.asked[0][1].loras == loras


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ('"model": "toy:carol"', "carol"),
        ('"loras": {"carol": 1}', "carol"),
        ('"loras": {"ada": NaN}', "loras.ada"),
        ('"loras": {"ada": 1e999}', "loras.ada"),
        ('"loras": {"ada": -Infinity}', "loras.ada"),
        ('"loras": {"ada": 100.5}', "loras.ada"),
        ('"loras": {"ada": "much"}', "loras.ada"),
        ('"loras": ["ada"]', "loras"),
        ('"loras": {"": 1}', "loras"),
        ('"loras": ' + json.dumps({f"lora-{number}": 1 for number in range(9)}), "loras"),
    ],
)
def test_what_cannot_be_is_a_plain_400(fields: str, named: str) -> None:
    engine = Attached()
    body = '{"messages": [{"role": "user", "content": "hi"}], ' + fields + "}"
    answer = ask(app_of(engine), "POST", "/v1/chat/completions", content=body, headers=JSON)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]
    assert engine.asked == []


def test_without_any_attached_a_name_says_so() -> None:
    answer = chat(app_of(FakeEngine()), loras={"ada": 1})
    assert answer.status_code == 400
    assert "--lora" in answer.json()["error"]["message"]
