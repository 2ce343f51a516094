"""From a model on the shelf to the Setup tab's form, filled in: converting it, adding it to another, exporting a copy.

Making a new model is a set-up like any other, with its plan, its receipt and its job. Knows nothing about the shelf's
own cards.
"""

import re
from dataclasses import dataclass
from typing import Any

import gradio as gr

from backend.errors import CriaError
from backend.jobs.shelf import Shelved
from backend.recipes import META
from ui.render.markup import problem
from ui.shell import SETUP_TAB, Shell, open_tab
from ui.views.setup import SetupView
from ui.wiring.setup_place import Place
from ui.wiring.setup_plan import Order, form_recipe, open_plan
from ui.wiring.setup_screen import Screen, Updates

_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
ENDINGS = {"convert": "hf", "merge": "merged", "delta": "merged", "meta": "meta", "lora": "merged", "dtype": "copy"}
_WHOLE = frozenset({"convert", "meta"})  # nothing is left to be filled in


@dataclass(frozen=True)
class Filled:
    """What the form says: its first fields, and the layout; the others leave the matter to Cria."""

    base: str = ""
    delta: str = ""
    loras: str = ""
    name: str = ""
    layout: str = ""

    def values(self) -> tuple[str, ...]:
        """Return every field in the form's order."""
        return (self.base, self.delta, self.loras, self.name, "", "", self.layout, "")


def plain_name(name: str) -> str:
    """Return a name that a new model may have, as like an old one as can be."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48] or "model"


def fill(do: str, shelved: Shelved, name: str) -> Filled:
    """Return the form for one of ``ENDINGS``; ``name`` is free. An adapter's own word about its base is used."""
    folder = str(shelved.info.folder)
    if do == "delta":
        return Filled(delta=folder, name=name)
    if do == "merge":
        base = shelved.found.base if shelved.found else None
        return Filled(base=base if base and _REPOSITORY.fullmatch(base) else "", loras=folder, name=name)
    return Filled(base=folder, name=name, layout=META if do == "meta" else "")


def open_form(do: str, shelved: Shelved, view: SetupView, screen: Screen, shell: Shell) -> Updates:
    """Bring a browser to the Setup tab: to the plan where nothing is left to be said, else to the form."""
    filled = fill(do, shelved, screen.free_name(f"{plain_name(shelved.info.name)}-{ENDINGS[do]}"))
    form = view.form
    shown: Updates = {
        **dict(zip(form.fields, filled.values(), strict=True)),
        form.box: gr.Accordion(open=True),
        form.problem: "",
        shell.tabs: open_tab(SETUP_TAB),
    }
    if do in _WHOLE:
        try:
            return {**shown, **open_plan(screen, Order(form_recipe(filled.values()), None, ""))}
        except CriaError as error:
            shown[form.problem] = problem(error, screen.language)
    return {**shown, **screen.go(Place("choose"))}


def form_outputs(view: SetupView) -> list[Any]:
    """Return the components of the form that ``open_form`` fills in."""
    return [*view.form.fields]
