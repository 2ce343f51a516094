"""LoRAs in the page: which an administrator attaches at the next load, and how strong each is in a conversation's next
replies.

Strengths come as ``{id: strength}`` from a part of the page that anybody can rewrite, so they are read with care. Knows
nothing about how a model computes with an adapter.
"""

import json
import math
import os
from collections.abc import Sequence
from typing import Any

import gradio as gr

from backend.engines.base import EngineStatus, Lora, Sampling
from backend.errors import UsageError
from backend.services import Services
from backend.text import say
from ui.access import is_admin, language, owner, require_admin
from ui.render.loras import MOST, lora_id, strengths
from ui.shell import Shell
from ui.views.chat import ChatView

_LONGEST = 100_000  # characters of what strengths come as


def read_strengths(typed: str | None, names: Sequence[str]) -> dict[str, float]:
    """Return name (or folder) -> strength for those of ``names`` that something was typed for.

    Raises:
        UsageError: what was typed is no strength.
    """
    try:
        told = json.loads(typed) if typed and len(typed) <= _LONGEST else {}
    except (ValueError, RecursionError):  # nobody's page says this
        told = {}
    said = told.get("said") if isinstance(told, dict) else None
    given = said if isinstance(said, dict) else {}
    return {name: _strength(name, given[key]) for name in names if (key := lora_id(name)) in given}


def _strength(name: str, given: Any) -> float:
    try:
        number = float(given)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= MOST:
        raise UsageError("loraui.bad_strength", name=Lora(name).name[:120], value=str(given)[:40], most=MOST)
    return number


def folders(chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Return what was chosen or typed as absolute folders, each once."""
    plain = (str(one).strip().strip("\"'").strip() for one in chosen or ())
    # Not resolve: a link's own name is what people gave it. Not Path.expanduser: it raises where nobody has that name.
    return tuple(dict.fromkeys(os.path.abspath(os.path.expanduser(one)) for one in plain if one))  # noqa: PTH100, PTH111


def read_loras(chosen: Sequence[str] | None, typed: str | None, usual: Sequence[Lora] = ()) -> tuple[Lora, ...]:
    """Return the adapters to attach; whether they can be is the engine's to say. ``usual``: how strong some of them are
    where nothing was said.

    Raises:
        UsageError: a strength is none.
    """
    wanted = folders(chosen)
    given = {**{lora.folder: lora.scale for lora in usual}, **read_strengths(typed, wanted)}
    return tuple(Lora(folder, given.get(folder, 1.0)) for folder in wanted)


def mixed(attached: Sequence[Lora], kept: Sampling, typed: str | None) -> tuple[tuple[str, float], ...] | None:
    """Return how strong each attached adapter is in the next reply: as typed, else as the conversation has it, else as
    it was attached. None where all of them are as attached.

    Raises:
        UsageError: what was typed is no strength.
    """
    usual = {lora.name: lora.scale for lora in attached}
    before = {name: scale for name, scale in kept.loras or () if name in usual}
    wanted = {**usual, **before, **read_strengths(typed, list(usual))}
    return None if wanted == usual else tuple(wanted.items())


def mixer(services: Services, request: gr.Request, status: EngineStatus) -> str:
    """Draw the strengths of this visitor's conversation; nothing where no adapter is attached."""
    attached = status.options.loras if status.answers else ()
    kept = services.conversations.current(owner(request)).sampling
    names = {lora.name for lora in attached}
    lost = [name for name, scale in kept.loras or () if scale and name not in names] if status.answers else []
    now = mixed(attached, kept, None) or tuple((lora.name, lora.scale) for lora in attached)
    words = language(request)
    return json.dumps({"rows": strengths(now, words, title=say(words, "loraui.title"), lost=lost)})


class LoraHandlers:
    """The events of the list of adapters under "How to load it"."""

    def __init__(self, view: ChatView, services: Services) -> None:
        self.view, self.services = view, services

    def bind(self, shell: Shell) -> None:
        """Bind every event."""
        view, options = self.view, self.view.options
        chosen = (options.loras, options.lora_scales)
        shell.on(None, self.open, (), chosen)
        shell.on([view.picker.change, options.loras.focus], self.offer, (view.picker,), (options.loras,), quiet=True)
        # Not input: gradio says that of neither what was typed nor what was taken off by key.
        shell.on(options.loras.change, self.choose, chosen, (options.lora_scales,), quiet=True)

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Begin with what is attached, else with what the command line asked for."""
        loras = self._usual()
        if not loras or not is_admin(request):
            return gr.skip(), gr.skip()
        return gr.update(value=[lora.folder for lora in loras]), _drawn(loras, language(request))

    def offer(self, request: gr.Request, picked: str | None) -> Any:
        """Offer the adapters on this machine that fit the chosen model."""
        if not is_admin(request) or not picked:
            return gr.skip()
        words = language(request)
        found = self.services.attachable(picked)
        return gr.update(
            choices=[(say(words, "loraui.choice", name=one.name, bytes=one.bytes), str(one.folder)) for one in found]
        )

    def choose(self, request: gr.Request, chosen: list[str] | None, typed: str | None) -> str:
        """Show a strength for each chosen adapter."""
        require_admin(request)
        return _drawn(read_loras(chosen, typed, self._usual()), language(request))

    def _usual(self) -> tuple[Lora, ...]:
        """Return what is attached, else what the command line asked for."""
        status = self.services.engine.status()
        return status.options.loras if status.answers else self.services.options.loras


def _drawn(loras: Sequence[Lora], words: str) -> str:
    said = {lora_id(lora.folder): f"{lora.scale:g}" for lora in loras}
    return json.dumps({"rows": strengths([(lora.folder, lora.scale) for lora in loras], words), "said": said})
