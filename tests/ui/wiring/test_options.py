"""What "How to load it" offers on a machine, and what it says of the choices."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from backend.engines.base import EngineOptions, EngineState, EngineStatus
from backend.errors import Refused, UsageError
from backend.fit.result import Fit, Memory, Verdict, Way
from backend.hardware import Gpu, Hardware
from backend.library import ModelInfo
from backend.text import Message
from tests.ui.wiring.test_model import FORM, request
from ui.render.loras import lora_id
from ui.views.chat import build_chat
from ui.wiring.options import OptionHandlers

BARE = Hardware(None, 2, 8 << 30, 4 << 30, Path(), 1, 1, (), None, False, None, None, "", "", {})
FITS = [
    Fit(Way("cpu", bits, engine="llamacpp"), Verdict.WELL, {"ram": Memory(bits, 0, 0, 0)}, {}, Message("fit.no"), 2048)
    for bits in (16, 8, 4)
]
PLAIN = {**FORM, "engine": "auto", "device": "auto", "bits": 16, "num_gpus": 0, "gpus": "", "max_gpu_memory": 0,
         "dtype": "auto", "context": 0, "idle_minutes": 0}  # fmt: skip


class _Meant:
    """Automatic is llama.cpp; counts how often it is asked, for each answer opens a checkpoint."""

    count = 0

    def __call__(self, _: ModelInfo, options: EngineOptions) -> EngineOptions:
        self.count += 1
        return replace(options, engine="llamacpp") if options.engine == "auto" else options


def _check(_: ModelInfo, options: EngineOptions) -> None:
    """Refuse what a load would refuse."""
    if options.context > 1024:
        raise UsageError("engine.context_too_long", asked=options.context, most=1024)


def _handlers(machine: Hardware, given: EngineOptions) -> OptionHandlers:
    async def lay_out() -> Any:
        with gr.Blocks(analytics_enabled=False):
            return build_chat(given)

    prospects = SimpleNamespace(
        machine=lambda: machine,
        precisions=lambda model, options: [(fit, None) for fit in FITS],
        meant=_Meant(),
        check=_check,
    )
    status = EngineStatus(EngineState.READY, "one", replace(given, engine="llamacpp"))
    services: Any = SimpleNamespace(
        prospects=prospects, options=given, models=lambda: (ModelInfo("one", Path("one"), 10),),
        engine=SimpleNamespace(status=lambda: status),
    )  # fmt: skip
    return OptionHandlers(asyncio.run(lay_out()), services)


def test_without_a_gpu_nothing_is_asked_about_gpus() -> None:
    device, *fields = _handlers(BARE, EngineOptions()).open(request())
    assert [value for _, value in device["choices"]] == ["auto", "cpu"]
    assert "No GPU" in device["info"]
    assert [one["visible"] for one in fields] == [False] * 3


@pytest.mark.parametrize(
    ("machine", "given"),
    [(replace(BARE, gpus=(Gpu(0, "H200", 1, 1),)), EngineOptions()), (BARE, EngineOptions(num_gpus=2))],
)
def test_with_a_gpu_or_a_wish_for_one_they_are(machine: Hardware, given: EngineOptions) -> None:
    assert all(one["visible"] for one in _handlers(machine, given).open(request())[1:])


def test_the_choices_are_explained_and_a_reload_is_foretold() -> None:
    handlers = _handlers(BARE, EngineOptions())
    costs, changes, _ = handlers.foretell(request(), "one", **{**PLAIN, "bits": 4})
    assert costs.count("<dt>") == 3
    assert "4-bit instead of 16-bit" in changes
    assert handlers.foretell(request(), "one", **PLAIN)[1] == ""
    assert handlers.foretell(request(), "gone", **PLAIN)[:2] == ("", "")
    assert handlers.foretell(request(), "one", **{**PLAIN, "engine": "remote"})[:2] == ("", "")
    assert handlers.foretell(request(), "one", **{**PLAIN, "engine": "vllm"})[0] == ""
    with pytest.raises(Refused):
        handlers.foretell(request(admin=False), "one", **PLAIN)


@pytest.mark.parametrize(("engine", "computes"), [("auto", True), ("llamacpp", True), ("transformers", False)])
def test_what_fewer_bits_cost_is_said_of_the_chosen_engine(engine: str, *, computes: bool) -> None:
    costs = _handlers(BARE, EngineOptions()).foretell(request(), "one", **{**PLAIN, "engine": engine})[0]
    assert ("llama.cpp computes" in costs) is computes


@pytest.mark.parametrize(
    ("engine", "bits", "asks"), [("transformers", 8, True), ("transformers", 16, False), ("auto", 8, False)]
)
def test_only_where_weights_would_be_quantised_is_asked_whether_to_keep_them(
    engine: str, bits: int, *, asks: bool
) -> None:
    form = {**PLAIN, "engine": engine, "bits": bits}
    assert _handlers(BARE, EngineOptions()).foretell(request(), "one", **form)[2]["visible"] is asks


def test_loras_are_among_what_a_reload_changes() -> None:
    handlers, asked = _handlers(BARE, EngineOptions()), {**PLAIN, "bits": 4, "loras": ["/adapters/pirate"]}
    told = handlers.changes(request(), "one", **asked)
    assert "4-bit instead of 16-bit" in told
    assert "LoRA to attach: pirate." in told
    assert handlers.foretell(request(), "one", **asked)[1] == told
    assert handlers.changes(request(), "gone", **asked) == ""
    assert handlers.forget(request()) == ""
    with pytest.raises(Refused):
        handlers.changes(request(admin=False), "one", **asked)


def test_strengths_alone_open_no_checkpoint_again() -> None:
    handlers, asked = _handlers(BARE, EngineOptions()), {**PLAIN, "loras": ["/adapters/pirate"]}
    meant: Any = handlers.services.prospects.meant
    handlers.foretell(request(), "one", **asked)
    for strength in ("0.5", "0.25"):
        said = json.dumps({"said": {lora_id("/adapters/pirate"): strength}})
        assert f"pirate × {strength}" in handlers.changes(request(), "one", **{**asked, "lora_scales": said})
    assert meant.count == 1
    assert "8-bit" in handlers.changes(request(), "one", **{**asked, "bits": 8})  # something else was chosen as well
    handlers.foretell(request(), "one", **asked)  # the machine may have changed
    assert meant.count == 3


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (2048, "made for 1024"),
        (999_999_999, "made for 1024"),
        (-5, "of -5 cannot"),
        (3.7, "of 3.7 cannot"),
    ],
)
def test_what_loading_would_refuse_is_said_as_soon_as_it_is_typed(typed: float, told: str) -> None:
    handlers, asked = _handlers(BARE, EngineOptions()), {**PLAIN, "context": typed}
    costs, said, _ = handlers.foretell(request(), "one", **asked)
    assert costs == ""  # figures would be of something that cannot be
    assert told in said
    assert "instead of" not in said
    assert handlers.changes(request(), "one", **asked) == said
