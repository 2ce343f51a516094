"""The path: four steps, one current, and only those reached can be gone to."""

from tests.ui.render.reading import Page
from ui.render.path import path_line


def test_the_current_step_is_marked_and_reached_ones_are_buttons() -> None:
    page = Page(path_line("run", "en", reached=frozenset({"choose", "run"})))
    assert [one.text for one in page.all("li")] == ["1Choose", "2Check the plan", "3Set up", "4Chat"]
    assert page.one(aria_current="step").text == "3Set up"
    assert page.acts() == [("stage", "choose")]
