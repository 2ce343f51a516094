"""The events of "How to load it": what there is to choose on this machine, what fewer bits save and cost there, what
loading again would change, and why loading would be refused. Knows nothing about how a model is loaded, or about which
LoRAs it can have.
"""

from dataclasses import replace
from typing import Any

import gradio as gr

from backend.engines import ENGINES, USUAL, is_installed
from backend.engines.base import EngineOptions
from backend.engines.choice import ON_CPU, has_instructions
from backend.errors import UsageError, WeightsError
from backend.library import ModelInfo
from backend.services import Services
from ui.access import language, require_admin
from ui.render.loading import Precision, devices, precisions, reload_changes
from ui.render.markup import problem
from ui.shell import Shell
from ui.views.chat import REMOTE, ChatView
from ui.wiring.given import given
from ui.wiring.model import read_options


class OptionHandlers:
    """The options' event handlers."""

    def __init__(self, view: ChatView, services: Services) -> None:
        self.view, self.services = view, services
        self._meant: tuple[ModelInfo, EngineOptions, EngineOptions] | None = None  # asked about last, and the answer

    def bind(self, shell: Shell) -> None:
        """Bind every event."""
        view, one = self.view, self.view.options
        shell.on(None, self.open, (), (one.device, one.num_gpus, one.gpus, one.max_gpu_memory))
        typed = [one.num_gpus.blur, one.gpus.blur, one.max_gpu_memory.blur, one.idle_minutes.blur]
        typed += [one.context.blur, one.context.submit]
        picked = [one.engine.input, one.device.input, one.bits.input, one.dtype.input]
        changed = [view.options_fold.expand, view.picker.change, *picked, *typed]
        shown = (view.bits_cost, view.reload, one.keep_quantised)
        shell.on(changed, self.foretell, (view.picker,), shown, inputs_kwargs=one.inputs, quiet=True)
        strengths = one.lora_scales.change  # also when a LoRA is chosen or taken off
        shell.on(strengths, self.changes, (view.picker,), (view.reload,), inputs_kwargs=one.inputs, quiet=True)
        shell.on(view.load.click, self.forget, (), (view.reload,), quiet=True)

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Offer what this machine has; what was asked for stays in sight."""
        machine, asked = self.services.prospects.machine(), given(self.services)
        offered, missing = devices(machine, asked.device, language(request))
        wished = bool(asked.num_gpus or asked.gpus or asked.max_gpu_memory)
        fields = gr.update(visible=bool(machine.gpus) or wished)
        return gr.update(choices=offered, info=missing or None), fields, fields, fields

    def foretell(self, request: gr.Request, picked: str | None, **form: Any) -> tuple[Any, ...]:
        """Say what fewer bits would mean and what loading would change; ask about kept weights where there are any."""
        require_admin(request)
        try:
            if (asked := self._asked(request, picked, form)) is None:
                return "", "", gr.update(visible=False)
            (model, chosen), wanted = asked, self._look(*asked)
        except (UsageError, WeightsError) as refusal:  # what loading would say: figures of it would be of nothing
            return "", problem(refusal, language(request)), gr.skip()
        ways = self._precisions(model, wanted)  # of the engine that would compute
        costs = precisions(ways, language(request), chosen=chosen, computes=wanted.engine, has_llamacpp=_has_llamacpp())
        keeps = wanted.engine == USUAL and wanted.bits != 16
        return costs, self._changes(request, model, wanted), gr.update(visible=keeps)

    def changes(self, request: gr.Request, picked: str | None, **form: Any) -> str:
        """Say what loading would change, when only strengths did."""
        require_admin(request)
        try:
            asked = self._asked(request, picked, form)
            return self._changes(request, asked[0], self._known(*asked)) if asked else ""
        except (UsageError, WeightsError) as refusal:
            return problem(refusal, language(request))

    def _look(self, model: ModelInfo, options: EngineOptions) -> EngineOptions:
        """Return the options as the engine takes them; this opens the checkpoint.

        Raises:
            UsageError, WeightsError: loading them would be refused.
        """
        self.services.prospects.check(model, options)
        meant = self.services.prospects.meant(model, options)
        self._meant = (model, _without_strengths(options), meant)
        return meant

    def _known(self, model: ModelInfo, options: EngineOptions) -> EngineOptions:
        """Return the same as ``_look``, from the last answer where that will do: strengths choose no engine."""
        last = self._meant
        if last is None or last[:2] != (model, _without_strengths(options)):
            return self._look(model, options)
        return replace(last[2], loras=options.loras)

    def _asked(
        self, request: gr.Request, picked: str | None, form: dict[str, Any]
    ) -> tuple[ModelInfo, EngineOptions] | None:
        """Return the model and the options that were chosen; None where they are not this machine's.

        Raises:
            UsageError: something in the form is no number.
        """
        options = read_options(form, language(request))
        model = next((one for one in self.services.models() if one.name == picked), None)
        return None if model is None or options.engine == REMOTE else (model, options)

    def _changes(self, request: gr.Request, model: ModelInfo, wanted: EngineOptions) -> str:
        return reload_changes(self.services.engine.status(), model.name, wanted, language(request))

    def _precisions(self, model: ModelInfo, options: EngineOptions) -> list[Precision]:
        if options.engine not in (ON_CPU, USUAL):
            return []
        return [Precision(fit, last) for fit, last in self.services.prospects.precisions(model, options)]

    def forget(self, _: gr.Request) -> str:
        """Say nothing more once it is being loaded."""
        return ""


def _without_strengths(options: EngineOptions) -> EngineOptions:
    return replace(options, loras=tuple(replace(lora, scale=1.0) for lora in options.loras))


def _has_llamacpp() -> bool:
    return is_installed(ENGINES[ON_CPU]) and has_instructions()
