"""Attaching LoRAs in the page, and making them stronger and weaker in a conversation."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from backend.conversations import Conversations
from backend.engines.attachable import Offer
from backend.engines.base import EngineOptions, EngineState, EngineStatus, Lora, Sampling
from backend.errors import Refused, UsageError, WeightsError
from ui.render.loras import lora_id
from ui.views.chat import build_chat
from ui.wiring.loras import LoraHandlers, folders, mixed, mixer, read_loras, read_strengths

PIRATE, STORY = Lora("/adapters/pirate"), Lora("/adapters/story", 0.5)
BOTH = (PIRATE, STORY)


def said(**strengths: Any) -> str:
    """Return what the page sends; a name stands for itself, `_` for a slash."""
    return json.dumps(
        {"rows": "<i>", "said": {lora_id(name.replace("_", "/")): one for name, one in strengths.items()}}
    )


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (said(), {}),
        (said(pirate="0.7"), {"pirate": 0.7}),
        (said(pirate=0, gone=1), {"pirate": 0.0}),
        (said(pirate="10", story="1e-3"), {"pirate": 10.0, "story": 0.001}),
        ("", {}), (None, {}), ("{", {}), ("[]", {}), ("3", {}), ('{"said": [1]}', {}), ("[" * 9999, {}),
        (said(pirate=1) + " " * 99999, {}),
    ],
)  # fmt: skip
def test_what_the_page_says_is_read_with_care(typed: str | None, expected: dict[str, float]) -> None:
    assert read_strengths(typed, ["pirate", "story"]) == expected


@pytest.mark.parametrize("wrong", ["", "-0.1", "10.5", "nan", "inf", "1e999", "x", None, [1], {}, "1" * 5000])
def test_a_strength_that_is_none_is_named_with_its_lora(wrong: Any) -> None:
    with pytest.raises(UsageError) as caught:
        read_strengths(said(pirate=wrong), ["pirate"])
    assert caught.value.params["name"] == "pirate"
    assert len(str(caught.value.params["value"])) <= 40
    assert caught.value.hint is not None


def test_a_folder_can_be_typed_in_many_ways_and_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    typed = ["/a/b", " /a/b/ ", '"/a/x/../b"', "~/lora", "~nobody-of-that-name/x", "", "  ", "''"]
    assert folders(typed) == ("/a/b", "/home/ann/lora", str(Path.cwd() / "~nobody-of-that-name/x"))
    assert folders(None) == ()
    odd = folders(["/a/\0b", "/a/<script>alert(1)</script>", "/a/" + "x" * 5000])
    assert len(odd) == 3  # whether they are there is the engine's to say


def test_each_folder_gets_the_strength_that_was_said_for_it() -> None:
    typed = said(_adapters_pirate="0.25", _adapters_gone="9")
    assert read_loras(["/adapters/pirate", "/adapters/story"], typed) == (
        Lora("/adapters/pirate", 0.25),
        Lora("/adapters/story", 1.0),
    )
    assert read_loras([], typed) == ()


@pytest.mark.parametrize(
    ("kept", "typed", "expected"),
    [
        (None, "", None),
        (None, said(pirate="1", story="0.5"), None),  # as attached
        (None, said(pirate="0"), (("pirate", 0.0), ("story", 0.5))),
        ((("story", 0.1),), "", (("pirate", 1.0), ("story", 0.1))),  # pirate came later
        ((("story", 0.1),), said(story="2"), (("pirate", 1.0), ("story", 2.0))),
        ((("gone", 3.0), ("pirate", 1.0)), "", None),
        ((("gone", 3.0),), said(gone="1", pirate="0"), (("pirate", 0.0), ("story", 0.5))),
    ],
)
def test_what_is_typed_wins_then_the_conversation_then_the_load(
    kept: tuple[tuple[str, float], ...] | None, typed: str, expected: tuple[tuple[str, float], ...] | None
) -> None:
    assert mixed(BOTH, Sampling(loras=kept), typed) == expected


def test_without_adapters_nothing_is_asked_for() -> None:
    assert mixed((), Sampling(loras=(("gone", 1.0),)), said(gone="1")) is None


@dataclass
class Machine:
    """Services with an engine whose state a test sets."""

    conversations: Conversations
    now: EngineStatus = field(default_factory=EngineStatus)
    options: EngineOptions = field(default_factory=EngineOptions)
    asked: list[str] = field(default_factory=list)

    @property
    def engine(self) -> Any:
        return SimpleNamespace(status=lambda: self.now)

    def attachable(self, model: str) -> tuple[Offer, ...]:
        self.asked.append(model)
        return (Offer(Path("/adapters/<b>pirate"), 8200),) if model == "toy" else ()

    def check_lora(self, model: str, folder: str) -> None:
        """Refuse what is called "bad"."""
        if Path(folder).name == "bad":
            raise WeightsError("attach.replaces", name="<i>bad", count=2, names="embed_tokens")


def request(*, admin: bool = True) -> gr.Request:
    asking = gr.Request()
    asking.kwargs = {"headers": {"x-cria-admin": "1" if admin else "0", "x-cria-visitor": "me"}, "cookies": {}}
    return asking


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(Conversations(tmp_path / "cria.sqlite"))


@pytest.fixture
def handlers(machine: Machine) -> LoraHandlers:
    async def lay_out() -> LoraHandlers:
        with gr.Blocks(analytics_enabled=False):
            return LoraHandlers(build_chat(EngineOptions()), machine)  # type: ignore[arg-type]

    return asyncio.run(lay_out())


def ready(*loras: Lora) -> EngineStatus:
    return EngineStatus(EngineState.READY, "toy", EngineOptions(loras=loras))


def keep(machine: Machine, loras: tuple[tuple[str, float], ...]) -> None:
    conversation = machine.conversations.current("me").id
    machine.conversations.save_settings("me", conversation, system="", sampling=Sampling(loras=loras))


def rows(drawn: str) -> str:
    return str(json.loads(drawn)["rows"])


def test_nothing_is_drawn_where_no_adapter_is_attached(machine: Machine) -> None:
    assert rows(mixer(machine, request(), machine.now)) == ""  # type: ignore[arg-type]
    assert rows(mixer(machine, request(), ready())) == ""  # type: ignore[arg-type]


def test_the_strengths_are_the_conversations(machine: Machine) -> None:
    keep(machine, (("pirate", 0.25),))
    drawn = rows(mixer(machine, request(admin=False), ready(*BOTH)))  # type: ignore[arg-type]
    assert [drawn.count(f'value="{value}"') for value in ("0.25", "0.5")] == [2, 2]
    assert "/adapters" not in drawn


def test_an_adapter_that_is_not_attached_any_more_is_said(machine: Machine) -> None:
    keep(machine, (("<i>gone", 0.25), ("off", 0.0), ("pirate", 1.0)))
    drawn = rows(mixer(machine, request(), ready(PIRATE)))  # type: ignore[arg-type]
    assert "&lt;i&gt;gone" in drawn
    assert "off" not in drawn
    assert "gone" in rows(mixer(machine, request(), ready()))  # type: ignore[arg-type]
    assert "gone" not in rows(mixer(machine, request(), EngineStatus()))  # type: ignore[arg-type]


def test_a_page_begins_with_what_is_attached(machine: Machine, handlers: LoraHandlers) -> None:
    machine.options = EngineOptions(loras=(STORY,))
    assert handlers.open(request(admin=False)) == (gr.skip(), gr.skip())
    chosen, scales = handlers.open(request())
    assert chosen["value"] == ["/adapters/story"]
    assert json.loads(scales)["said"] == {lora_id("/adapters/story"): "0.5"}
    machine.now = ready(PIRATE)
    assert handlers.open(request())[0]["value"] == ["/adapters/pirate"]
    machine.now = replace(ready(PIRATE), state=EngineState.LOADING)
    assert handlers.open(request())[0]["value"] == ["/adapters/pirate"]
    machine.now = ready()
    assert handlers.open(request()) == (gr.skip(), gr.skip())


def test_adapters_that_fit_are_offered_to_administrators(machine: Machine, handlers: LoraHandlers) -> None:
    offered = handlers.offer(request(), "toy")
    assert offered["choices"] == [("<b>pirate · 8.2 kB", "/adapters/<b>pirate")]
    assert "Pick one" in offered["info"]
    for asked in (handlers.offer(request(admin=False), "toy"), handlers.offer(request(), None)):
        assert asked == gr.skip()
    assert machine.asked == ["toy"]
    none = handlers.offer(request(), "other")
    assert none["choices"] == []
    assert none["info"].startswith("No LoRA on this machine fits")


def test_strangers_choose_nothing(handlers: LoraHandlers) -> None:
    with pytest.raises(Refused):
        handlers.choose(request(admin=False), "toy", ["/a"], "")


def test_each_chosen_adapter_gets_a_strength(handlers: LoraHandlers) -> None:
    kept, drawn = handlers.choose(request(), "toy", ["/x/<b>"], "")
    assert kept == gr.skip()
    assert len(json.loads(drawn)["said"]) == 1


def test_an_adapter_that_cannot_be_attached_is_taken_off_and_it_is_said_why(
    machine: Machine, handlers: LoraHandlers
) -> None:
    kept, drawn = handlers.choose(request(), "toy", ["/x/good", " /x/bad/ "], "")
    assert kept["value"] == ["/x/good"]
    assert "&lt;i&gt;bad" in rows(drawn)
    assert list(json.loads(drawn)["said"]) == [lora_id("/x/good")]
    assert handlers.choose(request(), "toy", ["/x/good"], drawn) == (gr.skip(), gr.skip())  # it was taken off
    assert "bad" in rows(handlers.choose(request(), "toy", ["/x/good", "/x/bad"], drawn)[1])  # typed once more
    assert "bad" not in rows(handlers.choose(request(), "toy", [], drawn)[1])
    assert handlers.choose(request(), None, ["/x/bad"], "")[0] == gr.skip()  # no model to hold it against
    machine.options = EngineOptions(loras=(Lora("/x/bad"),))  # the command line's own is the load's to judge
    assert handlers.choose(request(), "toy", ["/x/bad"], "")[0] == gr.skip()
