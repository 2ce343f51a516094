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
from backend.errors import CriaError, UsageError
from backend.services import Services
from backend.text import say
from ui.access import is_admin, language, owner, require_admin
from ui.render.loras import MOST, lora_id, strengths
from ui.render.markup import problem
from ui.shell import Shell
from ui.views.chat import ChatView
from ui.wiring.given import given

_LONGEST = 100_000  # characters of what strengths come as


def read_strengths(typed: str | None, names: Sequence[str]) -> dict[str, float]:
    """Return name (or folder) -> strength for those of ``names`` that something was typed for.

    Raises:
        UsageError: what was typed is no strength.
    """
    said = _told(typed).get("said")
    known = said if isinstance(said, dict) else {}
    return {name: _strength(name, known[key]) for name in names if (key := lora_id(name)) in known}


def _told(typed: str | None) -> dict[str, Any]:
    """Return what the strengths came with; nothing where it is nothing that a page of ours says."""
    try:
        told = json.loads(typed) if typed and len(typed) <= _LONGEST else {}
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _strength(name: str, typed: Any) -> float:
    try:
        number = float(typed)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= MOST:
        raise UsageError("loraui.bad_strength", name=Lora(name).name[:120], value=str(typed)[:40], most=MOST)
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
    scales = {**{lora.folder: lora.scale for lora in usual}, **read_strengths(typed, wanted)}
    return tuple(Lora(folder, scales.get(folder, 1.0)) for folder in wanted)


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
        shell.on(options.loras.change, self.choose, (view.picker, *chosen), chosen, quiet=True)

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
            choices=[(say(words, "loraui.choice", name=one.name, bytes=one.bytes), str(one.folder)) for one in found],
            info=say(words, "loraui.attach_info" if found else "loraui.attach_none"),
        )

    def choose(
        self, request: gr.Request, picked: str | None, chosen: list[str] | None, typed: str | None
    ) -> tuple[Any, ...]:
        """Show a strength for each chosen adapter; one that cannot be attached is taken off again, and it is said why.

        Taking it off is a change as well: the answer to that one leaves what was said.
        """
        require_admin(request)
        words, wanted = language(request), read_loras(chosen, typed, self._usual())
        if _told(typed).get("left") == [lora_id(lora.folder) for lora in wanted]:
            return gr.skip(), gr.skip()
        refused = self._refused(picked, wanted)
        fitting = [lora for lora in wanted if lora.folder not in refused]
        if not refused:
            return gr.skip(), _drawn(fitting, words)
        kept = [one for one in chosen or () if refused.keys().isdisjoint(folders([one]))]
        return gr.update(value=kept), _drawn(fitting, words, [problem(why, words) for why in refused.values()])

    def _refused(self, picked: str | None, wanted: Sequence[Lora]) -> dict[str, CriaError]:
        """Return the folders that the chosen model cannot have attached, and why; those it has had once are not asked
        about.
        """
        usual, refused = {lora.folder for lora in self._usual()}, {}
        for folder in [lora.folder for lora in wanted if picked and lora.folder not in usual]:
            try:
                self.services.check_lora(str(picked), folder)
            except CriaError as why:
                refused[folder] = why
        return refused

    def _usual(self) -> tuple[Lora, ...]:
        """Return what is attached, else what the command line asked for."""
        return given(self.services).loras


def _drawn(loras: Sequence[Lora], words: str, refused: Sequence[str] = ()) -> str:
    """Return the rows below the sentences (HTML) about what was refused, the strengths they say, and what was left."""
    said = {lora_id(lora.folder): f"{lora.scale:g}" for lora in loras}
    rows = "".join(refused) + strengths([(lora.folder, lora.scale) for lora in loras], words)
    return json.dumps({"rows": rows, "said": said, **({"left": list(said)} if refused else {})})
