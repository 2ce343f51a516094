"""The gallery: what is said of each recipe, and which button it offers in which situation."""

from dataclasses import replace

from backend.errors import SourceError
from backend.recipes import Part, Recipe
from tests.ui.render.reading import Page
from ui.render.recipes import Offer, recipe_gallery

DEMO = Recipe(
    "demo", {"en": "Demo <1>", "zh-CN": "演示"}, Part("builtin:demo/base"), about={"en": "Tiny."},
    good_for={"en": "Practice & play."}, licence={"en": "MIT"}, languages=("en", "zh", "tlh"), recommended=True,
)  # fmt: skip
OTHER = replace(DEMO, name="other", title={"en": "Other"}, recommended=False, licence={"en": ""}, languages=())


def draw(*offers: Offer, language: str = "en", admin: bool = True) -> Page:
    return Page(recipe_gallery(offers, language, admin=admin))


def test_a_card_says_what_a_person_needs_to_choose() -> None:
    page = draw(Offer(DEMO, disk_bytes=15_000_000))
    assert page.one("h3").text == "Demo <1>"
    assert page.facts() == {
        "Good for": "Practice & play.",
        "Size on disk": "15.0 MB",
        "Download": "nothing",
        "Languages": "English, Chinese, tlh",
        "Licence": "MIT",
    }
    assert page.one(cls="badge").text == "Start here"


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    facts = draw(Offer(OTHER)).facts()
    assert (facts["Size on disk"], facts["Languages"], facts["Licence"]) == ("unknown",) * 3


def test_the_recommended_recipe_starts_with_its_one_primary_button() -> None:
    page = draw(Offer(DEMO), Offer(OTHER))
    assert page.acts() == [("start", "demo"), ("look", "demo"), ("look", "other")]
    assert [one["data-name"] for one in page.all("button", cls="primary")] == ["demo"]


def test_a_recipe_whose_model_is_there_offers_the_chat() -> None:
    page = draw(Offer(DEMO, model="demo"), Offer(OTHER, model="my-other"))
    assert page.acts() == [("chat", "demo"), ("look", "demo"), ("chat", "my-other"), ("look", "other")]
    assert [one.text for one in page.all(cls="badge")] == ["Ready to chat"] * 2


def test_a_recipe_that_is_being_set_up_leads_to_that_job() -> None:
    page = draw(Offer(DEMO, job="20260101-000000-demo-ab12"))
    assert page.acts() == [("show", "20260101-000000-demo-ab12")]


def test_a_recipe_that_cannot_be_planned_says_why_instead_of_offering_a_button() -> None:
    page = draw(Offer(DEMO, error=SourceError("sources.missing", source="builtin:demo/base")))
    assert page.acts() == []
    assert "builtin:demo/base" in page.one(role="note").text


def test_somebody_who_may_not_change_the_machine_gets_no_buttons() -> None:
    assert draw(Offer(DEMO), Offer(OTHER, model="x"), admin=False).acts() == []


def test_titles_come_in_the_readers_language_where_there_is_one() -> None:
    page = draw(Offer(DEMO), Offer(OTHER), language="zh-CN")
    assert [one.text for one in page.all("h3")] == ["演示", "Other"]


def test_no_recipes_at_all_points_to_the_form() -> None:
    assert "form below" in draw().one("p").text
