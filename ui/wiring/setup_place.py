"""Where one browser stands in the Setup tab, and what it reported with a button. Plain values, checked on arrival."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from backend.errors import UsageError
from backend.plan import MB
from backend.recipes import Part, Recipe
from backend.services import DownloadChoice
from ui.render.path import STATIONS
from ui.views.setup import OTHER_SERVER

_MOST_FIELDS, _LONGEST = 32, 4096
OF_JOB = "job/"  # what a place's recipe begins with when it is what a job was asked for


@dataclass(frozen=True)
class Place:
    """Where one browser stands. ``recipe`` is empty while the form is what is being planned."""

    stage: str = "choose"
    recipe: str = ""
    job: str = ""

    @staticmethod
    def given(stage: str, recipe: str, job: str) -> "Place | None":
        """Return a place that a browser came back with; None for one that is none."""
        return Place(stage, recipe[:_LONGEST], job[:_LONGEST]) if stage in STATIONS[:-1] else None


@dataclass(frozen=True)
class Press:
    """A button that was pressed: what it means, about what, and the fields of the form around it."""

    act: str
    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(event: gr.EventData) -> "Press":
        """Return what a browser reported; what is no text and no tick is left out."""
        given = getattr(event, "fields", None)
        items = list(given.items())[:_MOST_FIELDS] if isinstance(given, dict) else []
        fields = {str(key): value if isinstance(value, bool) else str(value)[:_LONGEST] for key, value in items
                  if isinstance(value, str | bool)}  # fmt: skip
        return Press(str(getattr(event, "act", "")), str(getattr(event, "name", "")), fields)

    def text(self, name: str) -> str:
        """Return a field's text without spaces around it; empty if it is not there."""
        value = self.fields.get(name, "")
        return value.strip() if isinstance(value, str) else ""

    @property
    def keep(self) -> bool:
        """Whether downloads shall stay when the model is there."""
        return self.fields.get("keep", True) is not False

    def ingredients_of(self, recipe: Recipe) -> Recipe:
        """Return a recipe with the places that the fields name for its ingredients.

        Raises:
            UsageError: places for other ingredients than it has.
        """
        wanted = [self.text(f"own.{n}") or self.text(f"from.{n}") or part.source for n, part in enumerate(recipe.parts)]
        if wanted == [part.source for part in recipe.parts]:
            return recipe
        first, count = wanted[0], 1 + (recipe.delta is not None)
        loras = [Part(source) for source in wanted[count:]]
        return recipe.with_sources(
            base=first if first != recipe.base.source else None,
            delta=wanted[1] if recipe.delta and wanted[1] != recipe.delta.source else None,
            loras=loras if wanted[count:] != [part.source for part in recipe.loras] else (),
        )


def read_choice(fields: Sequence[Any], token: str = "") -> DownloadChoice | None:
    """Return what the fields about downloads say, with a token given elsewhere; None when all were left alone.

    Raises:
        UsageError: another address was chosen and not given.
    """
    server, address, typed, rate = (*fields, "", "", "", None)[:4]
    if server == OTHER_SERVER and not address.strip():
        raise UsageError("fetchui.no_address")
    chosen = DownloadChoice(address if server == OTHER_SERVER else server, token or typed, rate * MB if rate else None)
    return None if chosen == DownloadChoice() else chosen
