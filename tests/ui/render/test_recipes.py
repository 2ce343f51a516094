"""The gallery: families with sizes, what is said of each recipe, which button it offers, and what a search finds."""

from dataclasses import replace

from backend.errors import SourceError
from backend.fit.result import Outlook, Verdict
from backend.plan import Plan, Step
from backend.rates import Rates
from backend.recipes import Part, Recipe
from backend.text import Message
from tests.ui.render.reading import Page
from ui.render.filters import SIZES, filters_bar
from ui.render.recipes import Offer, pick, recipe_gallery

GB = 1_000_000_000
DEMO = Recipe(
    "demo", {"en": "Demo <1>", "zh-CN": "演示"}, Part("builtin:demo/base"), about={"en": "Tiny."},
    good_for={"en": "Practice & play."}, licence={"en": "MIT"}, languages=("en", "zh", "tlh"), recommended=True,
)  # fmt: skip
OTHER = replace(DEMO, name="other", title={"en": "Other"}, recommended=False, licence={"en": ""}, languages=())
PLAN = Plan(
    recipe="x", title={"en": "X"}, name="x", base="lab/x", delta=None, loras=(), template=None, context=None,
    questions=None, steps=(Step("fetch", Message("steps.fetch"), 0, 5 * GB, 1, downloads=3 * GB),),
)  # fmt: skip
SMALL = replace(OTHER, name="big-7b", title={"en": "Big 7B"}, family="big", size="7B", parameters=7 * GB)
LARGE = replace(SMALL, name="big-13b", title={"en": "Big 13B"}, size="13B", parameters=13 * GB)


def fitting(recipe: Recipe, verdict: Verdict) -> Offer:
    return Offer(recipe, outlook=Outlook(None, verdict=verdict))


def draw(*offers: Offer, language: str = "en", admin: bool = True) -> Page:
    return Page(recipe_gallery(offers, language, admin=admin))


def test_a_card_says_what_a_person_needs_to_choose() -> None:
    page = draw(Offer(DEMO, PLAN))
    assert page.one("h3").text == "Demo <1>"
    assert page.one("p", cls="good-for").text == "Practice & play."
    assert page.facts() == {
        "Size on disk": "2.0 GB",
        "Download": "3.0 GB",
        "Time to set up": "about 5 min if the network gives 10.0 MB/s",
        "Languages": "English, Chinese, tlh",
        "Licence": "MIT",
    }
    assert page.one(cls="badge").text == "Start here"


def test_a_time_that_rests_on_measurements_or_needs_no_network_has_no_if() -> None:
    measured = replace(PLAN, rates=Rates(network_measured=True))
    here = replace(PLAN, steps=(replace(PLAN.steps[0], downloads=0),))
    for plan in (measured, here):
        assert " if " not in draw(Offer(DEMO, plan)).facts()["Time to set up"]


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    facts = draw(Offer(OTHER)).facts()
    assert (facts["Size on disk"], facts["Languages"], facts["Licence"]) == ("the plan tells", "unknown", "unknown")


def test_a_family_is_one_card_with_its_sizes_to_pick_from() -> None:
    page = draw(fitting(LARGE, Verdict.TIGHT), fitting(SMALL, Verdict.WELL))
    assert page.one("h3").text == "Big"
    chips = page.all("button", cls="chip")
    assert [(one["data-pick"], one["aria-pressed"]) for one in chips] == [("big-7b", "true"), ("big-13b", "false")]
    assert [one.text for one in chips] == ["Runs well7B", "Tight13B"]
    shown = {one["data-recipe"]: "hidden" not in one.attributes for one in page.all("div", cls="recipe")}
    assert shown == {"big-7b": True, "big-13b": False}
    assert page.all("span", cls="well")[0].text == "Runs well"


def test_the_size_shown_first_is_there_or_the_largest_that_runs_well_or_the_smallest() -> None:
    small, large = fitting(SMALL, Verdict.WELL), fitting(LARGE, Verdict.WELL)
    assert pick([small, large]) is large
    assert pick([small, fitting(LARGE, Verdict.TIGHT)]) is small
    assert pick([replace(small, model="x"), large]).recipe is SMALL
    assert pick([fitting(SMALL, Verdict.NO), fitting(LARGE, Verdict.NO)]).recipe is SMALL
    assert pick([fitting(SMALL, Verdict.TIGHT), fitting(LARGE, Verdict.TIGHT)]).recipe is SMALL
    assert pick([fitting(SMALL, Verdict.NO), fitting(LARGE, Verdict.TIGHT)]).recipe is LARGE


def test_what_the_filters_ask_for_is_in_each_recipes_data() -> None:
    gated = replace(SMALL, base=Part("lab/<x>", access="https://x"), languages=("en-GB",), tags=("Code",))
    one = draw(fitting(gated, Verdict.NO)).one("div", cls="recipe")
    data = (one["data-fit"], one["data-languages"], one["data-millions"], one["data-gated"])
    assert data == ("no", "en", "7000", "yes")
    assert {"big", "7b", "code", "lab/<x>", "english"} <= set(one["data-words"].split())
    free = draw(Offer(OTHER)).one("div", cls="recipe")
    assert (free["data-fit"], free["data-gated"]) == ("", "no")


def test_families_further_down_wait_behind_a_button_that_counts_them() -> None:
    more = draw(fitting(SMALL, Verdict.WELL), fitting(LARGE, Verdict.WELL), Offer(DEMO)).one("div", cls="more")
    assert "hidden" in more.attributes
    assert "all 2 families" in more.text


def test_a_search_that_finds_nothing_has_ways_out() -> None:
    nothing = draw(Offer(DEMO)).one("div", cls="nothing")
    assert "hidden" in nothing.attributes
    assert "Anything else" in nothing.text
    assert "Anything else" not in draw(Offer(DEMO), admin=False).one("div", cls="nothing").text


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


def test_recipes_of_ones_own_that_are_broken_are_shown_with_the_reason_to_administrators() -> None:
    bad = (SourceError("recipes.bad_file", file="<x>.toml", what="no"),)
    assert "<x>.toml cannot be used" in Page(recipe_gallery([], "en", admin=True, problems=bad)).one(role="note").text
    assert "toml" not in recipe_gallery([Offer(DEMO)], "en", admin=False, problems=bad)


def test_somebody_who_may_not_change_the_machine_gets_no_buttons() -> None:
    assert draw(Offer(DEMO), Offer(OTHER, model="x"), admin=False).acts() == []


def test_titles_come_in_the_readers_language_where_there_is_one() -> None:
    page = draw(Offer(DEMO), Offer(OTHER), language="zh-CN")
    assert [one.text for one in page.all("h3")] == ["演示", "Other"]


def test_no_recipes_at_all_points_to_the_form() -> None:
    assert "form below" in draw().one("p").text


def test_the_filters_offer_the_languages_there_are_and_sizes_without_gaps() -> None:
    page = Page(filters_bar([DEMO, OTHER], "en"))
    assert page.one("select", data_filter="language").text == "AnyEnglishChinese"
    assert [one["data-filter"] for one in page.all("input")] == ["search", "here", "open"]
    ends = [size.split("-") for size in SIZES]
    assert [most for _, most in ends[:-1]] == [least for least, _ in ends[1:]]
    assert "{left} of {all}" in page.one("output")["data-count"]
