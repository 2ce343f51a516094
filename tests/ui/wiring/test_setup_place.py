"""What a browser reports with a button is checked on arrival, and its fields become ingredients and choices."""

from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from backend.errors import UsageError
from backend.plan import Plan
from backend.recipes import Part, Recipe
from backend.services import DownloadChoice
from ui.wiring.setup_place import Place, Press, read_choice
from ui.wiring.setup_plan import recipe_of

RECIPE = Recipe(
    "mine", {"en": "Mine"}, Part("lab/base", alternatives=("copy/base",)), delta=Part("lab/delta", rule="mean"),
    loras=(Part("lab/one"), Part("lab/two", 0.5)),
)  # fmt: skip


def pressed(**fields: Any) -> Press:
    named = {name.replace("_", "."): value for name, value in fields.items()}
    return Press.read(gr.EventData(None, {"act": "begin", "name": "x", "fields": named}))


def test_only_text_and_ticks_of_a_sensible_length_are_taken() -> None:
    press = pressed(name="  my-model ", keep=False, number=3, nested={"a": 1}, long="x" * 10_000)
    assert press.text("name") == "my-model"
    assert press.keep is False
    assert set(press.fields) == {"name", "keep", "long"}
    assert len(press.text("long")) == 4096
    many = Press.read(gr.EventData(None, {"fields": {str(number): "x" for number in range(1000)}}))
    assert len(many.fields) == 32
    assert Press.read(gr.EventData(None, {"fields": "no"})) == Press("", "")
    assert pressed().keep


def test_what_is_not_touched_stays_the_recipe_itself() -> None:
    assert pressed().ingredients_of(RECIPE) is RECIPE
    assert pressed(own_0="", from_0="lab/base").ingredients_of(RECIPE) is RECIPE


def test_ingredients_are_taken_from_where_a_person_says() -> None:
    chosen = pressed(from_0="copy/base").ingredients_of(RECIPE)
    assert [part.source for part in chosen.parts] == ["copy/base", "lab/delta", "lab/one", "lab/two"]
    mine = pressed(from_0="copy/base", own_0="/my/base", own_1="/my/delta", own_3="/my/two").ingredients_of(RECIPE)
    assert [part.source for part in mine.parts] == ["/my/base", "/my/delta", "lab/one", "/my/two"]
    assert mine.delta is not None
    assert (mine.delta.rule, mine.loras[1].scale) == ("mean", 0.5)


def test_a_job_can_be_planned_anew_from_what_it_was_asked_for() -> None:
    plan = Plan(
        recipe="mine", title={"en": "Mine"}, name="other", base="lab/base", delta="lab/delta",
        loras=(("lab/one", 0.5),), template="alpaca", context=2048, questions=None, steps=(), delta_rule="mean",
        dtype="float16", layout="meta",
    )  # fmt: skip
    again = recipe_of(plan)
    assert [part.source for part in again.parts] == plan.sources
    assert (again.delta, again.loras[0].scale) == (Part("lab/delta", rule="mean"), 0.5)
    assert (again.name, again.template, again.dtype, again.layout) == ("mine", "alpaca", "float16", "meta")
    known = replace(RECIPE, loras=(Part("lab/one", 0.9, sha256={"one.bin": "aa"}),))
    again = recipe_of(plan, (replace(RECIPE, name="another", base=Part("lab/base", access="nobody")), known))
    assert (again.base, again.loras[0]) == (RECIPE.base, Part("lab/one", 0.5, sha256={"one.bin": "aa"}))


@pytest.mark.parametrize("stage", ["", "chat", "nowhere", "__init__"])
def test_a_place_that_is_none_is_not_gone_to(stage: str) -> None:
    assert Place.given(stage, "demo", "") is None


def test_a_place_to_come_back_to() -> None:
    assert Place.given("plan", "demo", "job") == Place("plan", "demo", "job")


def test_a_token_typed_into_a_card_comes_before_the_one_in_the_fields() -> None:
    assert read_choice(("", "", "old", None), "new") == DownloadChoice("", "new", None)
    assert read_choice(("", "", "", None)) is None
    assert read_choice(()) is None
    assert read_choice(("other", "https://x", "", 2)) == DownloadChoice("https://x", "", 2_000_000)
    with pytest.raises(UsageError):
        read_choice(("other", " ", "", None))
