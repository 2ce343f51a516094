"""What the load controls mean, and what a page is told about the engine."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from backend.engines.base import EngineOptions, EngineState, EngineStatus, Lora, Sampling
from backend.engines.line import Line
from backend.errors import EngineError, Refused, UsageError
from backend.library import ModelInfo
from backend.text import Message, say
from ui.views.chat import BUSY, GIB, build_chat
from ui.wiring.model import ModelHandlers, read_options

FORM = {
    "engine": "transformers", "device": "cuda", "bits": 8, "num_gpus": 2, "gpus": " 0, 1 ", "max_gpu_memory": 10.5,
    "dtype": "float16", "context": 4096, "idle_minutes": 5, "url": " http://box:8000 ", "remote_model": None,
    "loras": [], "lora_scales": "", "keep_quantised": True,
}  # fmt: skip


def test_every_control_counts() -> None:
    assert read_options(FORM) == EngineOptions(
        "transformers", "cuda", 8, 2, (0, 1), int(10.5 * GIB), "float16", 4096, 5, "http://box:8000",
        keep_quantised=True,
    )  # fmt: skip


def test_emptied_fields_mean_their_defaults() -> None:
    emptied = {**FORM, "num_gpus": None, "gpus": None, "max_gpu_memory": None, "context": ""}
    options = read_options(emptied)
    assert (options.num_gpus, options.gpus, options.max_gpu_memory, options.context) == (0, (), 0, 0)


def test_weights_of_sixteen_bits_have_nothing_to_keep() -> None:
    assert not read_options({**FORM, "bits": 16}).keep_quantised


def test_a_chinese_comma_is_a_comma() -> None:
    assert read_options({**FORM, "gpus": "0，1"}).gpus == (0, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"gpus": "a"}, {"idle_minutes": 0.5}, {"gpus": "0;1"}, {"gpus": "-1"}, {"num_gpus": -1}, {"num_gpus": 1.5},
     {"context": float("nan")}, {"context": float("inf")}, {"max_gpu_memory": -0.1}, {"max_gpu_memory": 1e12}],
)  # fmt: skip
def test_nonsense_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        read_options({**FORM, **wrong})
    assert caught.value.hint is not None


def test_a_control_is_named_as_the_page_names_it() -> None:
    with pytest.raises(UsageError) as caught:
        read_options({**FORM, "idle_minutes": -1}, "zh-TW")
    assert caught.value.params["name"] == say("zh-TW", "remote.idle") != say("en", "remote.idle")


@dataclass
class Machine:
    """Services with an engine whose state a test sets."""

    now: EngineStatus = field(default_factory=EngineStatus)
    shelf: tuple[ModelInfo, ...] = (ModelInfo("one", Path("one"), 10), ModelInfo("two", Path("two"), 20))
    loads: list[tuple[str, EngineOptions]] = field(default_factory=list)
    kept: tuple[tuple[str, float], ...] | None = None  # the strengths that this visitor's conversation has

    @property
    def conversations(self) -> Any:
        kept = SimpleNamespace(sampling=Sampling(loras=self.kept))
        return SimpleNamespace(current=lambda owner: kept)

    line: Line = field(default_factory=Line)
    options: EngineOptions = field(default_factory=EngineOptions)

    @property
    def prospects(self) -> Any:
        """Automatic is llama.cpp on this machine."""
        return SimpleNamespace(meant=lambda model, options: replace(options, engine="llamacpp"))

    def forecast(self, _: EngineStatus) -> None:
        """Nothing is foretold here."""

    @property
    def engine(self) -> Any:
        return SimpleNamespace(status=lambda: self.now, unload=self.unload)

    def models(self) -> tuple[ModelInfo, ...]:
        return self.shelf

    broken: frozenset[str] = frozenset()  # what a look has found broken

    def unsound(self, *, look: bool = False) -> frozenset[str]:
        return self.broken

    quicker: str = ""  # what another window loads right after each load

    def load(self, model: str, options: EngineOptions) -> None:
        self.loads.append((model, options))
        self.now = EngineStatus(EngineState.LOADING, self.quicker or model)

    def unload(self) -> None:
        self.now = EngineStatus()

    def models_at(self, url: str) -> tuple[str, ...]:
        return ("one", "two", "th\nree")


def request(*, admin: bool = True) -> gr.Request:
    asking = gr.Request()
    asking.kwargs = {"headers": {"x-cria-admin": "1" if admin else "0", "x-cria-visitor": "me"}, "cookies": {}}
    return asking


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def handlers(machine: Machine) -> ModelHandlers:
    async def lay_out() -> ModelHandlers:
        with gr.Blocks(analytics_enabled=False):
            return ModelHandlers(build_chat(EngineOptions()), machine)  # type: ignore[arg-type]

    return asyncio.run(lay_out())  # where gradio finds no running loop it makes one and leaves it open


NAMES = ("controls", "options", "picker", "load", "unload", "card", "chat", "to_setup", "send", "mix", "timer", "seen")


def named(outputs: tuple[Any, ...]) -> dict[str, Any]:
    """Return what changed, by name; a fresh page's form comes after that."""
    row = dict(zip(NAMES, outputs[: len(NAMES)], strict=True))
    return {name: value for name, value in row.items() if value != gr.skip()}


def begun(handlers: ModelHandlers, *, admin: bool = True) -> dict[str, Any]:
    """Return what a fresh page puts into the form."""
    row = zip(handlers.form, handlers.open(request(admin=admin))[len(NAMES) :], strict=True)
    return {name: update["value"] for name, update in row if update != gr.skip()}


def prop(update: Any, name: str) -> Any:
    return update[name] if isinstance(update, dict) else getattr(update, name)


def test_a_fresh_page_gets_everything_and_then_only_changes(machine: Machine, handlers: ModelHandlers) -> None:
    first = named(handlers.open(request()))
    assert set(first) == set(NAMES)
    assert prop(first["picker"], "value") == "one"
    again = named(handlers.tick(request(), first["seen"], "two"))
    assert set(again) == {"timer"}
    machine.now = EngineStatus(EngineState.READY, "two", context=64)
    changed = named(handlers.tick(request(), first["seen"], "one"))
    assert prop(changed["picker"], "value") == "two"
    assert "two is ready" in changed["card"]
    assert "controls" not in changed


def test_a_page_looks_often_only_while_something_of_its_own_moves(machine: Machine, handlers: ModelHandlers) -> None:
    def pace(shown: str) -> float:
        return float(prop(named(handlers.tick(request(), "", "one", shown))["timer"], "value"))

    machine.now = EngineStatus(EngineState.READY, "one", active=1)
    assert (pace(BUSY), pace("a1b2")) == (0.5, 3.0)  # it talks; somebody else does
    machine.now = EngineStatus(EngineState.LOADING, "one")
    assert pace("a1b2") == 0.5


def test_strengths_that_another_tab_has_sent_are_drawn_anew(machine: Machine, handlers: ModelHandlers) -> None:
    machine.now = EngineStatus(EngineState.READY, "one", EngineOptions(loras=(Lora("/adapters/pirate"),)))
    first = named(handlers.open(request()))
    assert set(named(handlers.tick(request(), first["seen"], "one"))) == {"timer"}
    machine.kept = (("pirate", 0.25),)
    changed = named(handlers.tick(request(), first["seen"], "one"))
    assert set(changed) == {"mix", "timer", "seen"}
    assert 'value=\\"0.25\\"' in changed["mix"]


def test_a_visitors_pick_is_not_taken_away_when_the_shelf_grows(machine: Machine, handlers: ModelHandlers) -> None:
    first = named(handlers.open(request()))
    machine.shelf = (*machine.shelf, ModelInfo("three", Path("three"), 1))
    changed = named(handlers.tick(request(), first["seen"], "two"))
    assert prop(changed["picker"], "value") == "two"
    machine.shelf = (ModelInfo("three", Path("three"), 1),)
    changed = named(handlers.tick(request(), changed["seen"], "two"))
    assert prop(changed["picker"], "value") == "three"


def test_broken_folders_are_not_offered(machine: Machine, handlers: ModelHandlers) -> None:
    machine.shelf = (replace(machine.shelf[0], problem="library.raw"),)
    first = named(handlers.open(request()))
    assert prop(first["picker"], "value") is None
    assert prop(first["to_setup"], "visible") is True


def test_strangers_see_the_engine_but_not_the_controls(handlers: ModelHandlers) -> None:
    first = named(handlers.open(request(admin=False)))
    assert prop(first["controls"], "visible") is False
    assert prop(first["options"], "visible") is False
    assert "No model is loaded" in first["card"]


def test_strangers_cannot_load_or_unload_even_if_they_ask(machine: Machine, handlers: ModelHandlers) -> None:
    with pytest.raises(Refused):
        handlers.load(request(admin=False), "one", **FORM)
    with pytest.raises(Refused):
        handlers.unload(request(admin=False), "one")
    assert machine.loads == []


def test_load_hands_on_the_options(machine: Machine, handlers: ModelHandlers) -> None:
    changed = named(handlers.load(request(), "two", **FORM))
    assert machine.loads == [("two", read_options(FORM))]
    assert "Loading two" in changed["card"]
    assert prop(changed["timer"], "value") == 0.5
    with pytest.raises(UsageError):
        handlers.load(request(), None, **FORM)
    assert "No model is loaded" in named(handlers.unload(request(), "two"))["card"]


def test_a_model_on_another_server_needs_no_choice_from_the_shelf(machine: Machine, handlers: ModelHandlers) -> None:
    handlers.load(request(), None, **{**FORM, "engine": "remote", "remote_model": "theirs"})
    assert machine.loads[0][0] == ""
    assert machine.loads[0][1].remote_model == "theirs"
    shown = handlers.choose_engine(request(), "remote")
    assert [update["visible"] for update in shown] == [True, True]
    assert prop(handlers.look_elsewhere(request(), "http://box"), "choices") == [("one", "one"), ("two", "two")]
    for refused in (handlers.look_elsewhere, handlers.choose_engine):
        with pytest.raises(Refused):
            refused(request(admin=False), "http://box")


def test_one_press_loads_the_smaller_way(machine: Machine, handlers: ModelHandlers) -> None:
    smaller = EngineOptions(bits=8)
    error = EngineError("engine.killed", signal="SIGKILL", log="")
    machine.now = EngineStatus(EngineState.FAILED, "one", error=error, offer=smaller)
    assert "Load in 8-bit" in named(handlers.open(request()))["card"]
    assert "Load in 8-bit" not in named(handlers.open(request(admin=False)))["card"]
    with pytest.raises(Refused):
        handlers.load_smaller(request(admin=False), "one")
    handlers.load_smaller(request(), "two")
    handlers.load_smaller(request(), "two")  # a second press, when the first has taken the offer away
    assert machine.loads == [("one", smaller)]


def test_a_restart_and_a_sleep_are_told(machine: Machine, handlers: ModelHandlers) -> None:
    crash = EngineError("engine.killed", signal="SIGKILL", log="in /home/ann/x.py")
    machine.now = EngineStatus(EngineState.READY, "one", restarts=1, restarted_at=1.0, restarted_after=crash)
    card = named(handlers.open(request()))["card"]
    assert "Restarted at" in card
    assert "SIGKILL" in card
    assert "/home" not in card
    assert "SIGKILL" not in named(handlers.open(request(admin=False)))["card"]
    note = Message("ops.asleep", {"time": "12:34", "minutes": 5})
    machine.now = EngineStatus(EngineState.ASLEEP, "one", note=note)
    asleep = named(handlers.open(request()))
    assert "Unloaded at 12:34" in asleep["card"]
    assert prop(asleep["unload"], "interactive") is True


def test_a_fresh_page_begins_with_how_the_model_was_loaded(machine: Machine, handlers: ModelHandlers) -> None:
    loaded = EngineOptions("transformers", bits=8, idle_minutes=1, gpus=(0, 1), max_gpu_memory=3 << 30)
    for state in (EngineState.READY, EngineState.ASLEEP, EngineState.LOADING):
        machine.now = EngineStatus(state, "one", loaded)
        form = begun(handlers)
        assert read_options({**FORM, **form}) == loaded
        assert not form.keys() & {"loras", "lora_scales"}
    machine.now = EngineStatus(EngineState.READY, "one", replace(loaded, engine="llamacpp"))
    assert begun(handlers)["engine"] == "auto"  # what automatic comes down to; another model may need another engine
    for status in (EngineStatus(), EngineStatus(EngineState.FAILED, "one", loaded)):
        machine.now = status
        assert begun(handlers) == {}
    machine.now = EngineStatus(EngineState.READY, "one", loaded)
    assert begun(handlers, admin=False) == {}
    # An open page keeps what somebody chose in it: after the usual there is the notice and no form.
    assert len(handlers.tick(request(), "", None)) == len(NAMES) + 1


def test_a_fresh_page_shows_the_address_of_a_model_elsewhere(machine: Machine, handlers: ModelHandlers) -> None:
    elsewhere = EngineOptions("remote", url="http://box:8000", remote_model="theirs")
    machine.now = EngineStatus(EngineState.READY, "theirs", elsewhere)
    assert read_options({**FORM, **begun(handlers)}) == elsewhere
    row = dict(zip(handlers.form, handlers.open(request())[len(NAMES) :], strict=True))
    assert [row[name]["visible"] for name in ("url", "remote_model")] == [True, True]


def test_text_that_is_no_text_silences_nobody(machine: Machine, handlers: ModelHandlers) -> None:
    machine.shelf = (*machine.shelf, ModelInfo("bad\udcff", Path("bad"), 1))
    machine.now = EngineStatus(EngineState.FAILED, "one\udcff", log_tail=("a \ud800 b",))
    first = named(handlers.open(request()))
    json.dumps(first["card"], ensure_ascii=False).encode()
    assert [value for _, value in prop(first["picker"], "choices")] == ["one", "two"]


def test_strangers_see_no_log(machine: Machine, handlers: ModelHandlers) -> None:
    machine.now = EngineStatus(EngineState.FAILED, "one", log_tail=("in /home/ann/x.py",))
    assert "/home" in named(handlers.open(request()))["card"]
    assert "/home" not in named(handlers.open(request(admin=False)))["card"]


def test_who_loads_is_told_when_another_window_loads_something_else(machine: Machine, handlers: ModelHandlers) -> None:
    mine = named(handlers.load(request(), "one", **FORM))
    assert handlers.tick(request(), mine["seen"], "one")[-1] == gr.skip()
    machine.now = EngineStatus(EngineState.LOADING, "two")  # as another window has asked
    told = handlers.tick(request(), mine["seen"], "one")
    assert "one is not being loaded any more: two" in told[-1]
    assert prop(named(told)["picker"], "value") == "two"
    assert handlers.tick(request(), named(told)["seen"], "two")[-1] == gr.skip()  # once is enough
    assert handlers.tick(request(admin=False), mine["seen"], "one")[-1] == gr.skip()
    machine.now = EngineStatus(EngineState.READY, "one")
    ready = named(handlers.tick(request(), mine["seen"], "one"))
    machine.now = EngineStatus(EngineState.LOADING, "two")  # nothing was dropped on its way: the card says enough
    assert handlers.tick(request(), ready["seen"], "one")[-1] == gr.skip()


def test_who_loads_is_told_at_once_when_another_window_was_quicker(machine: Machine, handlers: ModelHandlers) -> None:
    machine.quicker = "two"
    with pytest.raises(UsageError) as caught:
        handlers.load(request(), "one", **FORM)
    assert caught.value.params == {"picked": "one", "name": "two"}


def test_what_is_known_to_be_broken_is_marked_and_not_chosen_for_anybody(
    machine: Machine, handlers: ModelHandlers
) -> None:
    first = named(handlers.open(request()))
    assert prop(first["picker"], "value") == "one"  # nobody knows yet
    machine.broken = frozenset({"one"})
    looked = named(handlers.tick(request(), first["seen"], "one"))
    assert prop(looked["picker"], "value") == "two"
    assert "cannot be loaded" in dict(map(reversed, prop(looked["picker"], "choices")))["one"]
    assert "picker" not in named(handlers.tick(request(), looked["seen"], "one"))  # whoever wants it may choose it
    assert prop(named(handlers.open(request()))["picker"], "value") == "two"
    machine.broken = frozenset({"one", "two"})
    assert prop(named(handlers.open(request()))["picker"], "value") == "one"


def test_only_what_is_loaded_is_loaded_again(machine: Machine, handlers: ModelHandlers) -> None:
    machine.now = EngineStatus(EngineState.READY, "one")
    first = named(handlers.open(request()))
    assert prop(first["load"], "value") == "Load again"
    assert handlers.pick(request(), "two")["value"] == "Load"
    assert handlers.pick(request(), "one")["value"] == "Load again"
    assert prop(named(handlers.tick(request(), first["seen"], "two"))["load"], "value") == "Load"
    with pytest.raises(Refused):
        handlers.pick(request(admin=False), "two")
