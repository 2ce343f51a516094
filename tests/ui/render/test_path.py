"""The path: five stations, one current, and only those reached can be gone to."""

from tests.ui.render.reading import Page
from ui.render.path import path_line


def test_the_current_step_is_marked_and_reached_ones_are_buttons() -> None:
    page = Page(path_line("run", "en", reached=frozenset({"machine", "choose", "run"}), recipe="<x>", job="j"))
    assert [one.text for one in page.all("li")] == [
        "1Your machine", "2Choose", "3Check the plan", "4Set up", "5Chat",
    ]  # fmt: skip
    assert page.one(aria_current="step").text == "4Set up"
    assert page.acts() == [("stage", "machine"), ("stage", "choose")]
    place = page.one("ol")
    assert (place["data-stage"], place["data-recipe"], place["data-job"]) == ("run", "<x>", "j")
