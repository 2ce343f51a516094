"""The receipt: ingredients and where else they are, steps with their figures, totals, why a plan cannot start."""

from dataclasses import replace

import pytest

from backend.errors import CriaError, MachineError, SourceError, UsageError
from backend.jobs.examination import Findings
from backend.jobs.stock import Coming
from backend.plan import Plan, Step
from backend.recipes import Part, Recipe
from backend.text import LANGUAGES, Message
from tests.ui.render.reading import Page
from tests.ui.render.test_hardware import PLAIN
from ui.render.plan import Sheet, plan_receipt

GB = 1_000_000_000
PLAN = Plan(
    recipe="mine", title={"en": "Mine <b>"}, name="mine", base="/raw/7B", delta="builtin:demo/delta",
    loras=(("/lora/a", None), ("/lora/b", 0.5)), template=None, context=2048, questions=None,
    steps=(
        Step("fetch", Message("steps.fetch"), 27 * GB, 0, 120_000_000),
        Step("merge", Message("steps.merge_delta"), 27 * GB, 13 * GB, 450_000_000, 2.0),
    ),
)  # fmt: skip
FAR = replace(
    PLAN, base="lab/base", steps=(replace(PLAN.steps[0], writes=13 * GB, downloads=13 * GB), PLAN.steps[1]),
    lean=15 * GB,
)  # fmt: skip
RECIPE = Recipe(
    "mine", {"en": "Mine"}, Part("lab/base", alternatives=("copy/base",), access="https://lab.example/ask"),
    delta=Part("builtin:demo/delta"), loras=(Part("/lora/a"), Part("/lora/b", 0.5)), licence={"en": "Research only"},
)  # fmt: skip
SHEET = Sheet(PLAIN, "mine-2")


def draw(plan: Plan = PLAN, sheet: Sheet = SHEET, language: str = "en") -> Page:
    return Page(plan_receipt(plan, sheet, language))


def totals(page: Page) -> dict[str, str]:
    return {term.text: one.text for term, one in zip(page.all("dt"), page.all("dd"), strict=True)}


def test_every_step_shows_what_it_reads_writes_and_needs() -> None:
    page = draw()
    assert [one.text for one in page.all("th", scope="row")] == [
        "Fetch: read and check the source files",
        "Convert and apply the delta, in one pass",
    ]
    cells = [(one["data-label"], one.text) for one in page.all("td")]
    assert cells[4:] == [("Reads", "27.0 GB"), ("Writes", "13.0 GB"), ("Memory", "450 MB"), ("Time", "about 2 min")]
    assert cells[1] == ("Writes", "–")


def test_ingredients_are_named_in_order_with_their_scale() -> None:
    page = draw()
    sources = [one.text for one in page.all("span", cls="source")]
    assert sources == ["/raw/7B", "ships with Cria (demo/delta)", "/lora/a", "/lora/b (scale 0.5)"]
    roles = [one.text for one in page.all("span", cls="role")]
    assert roles[0] == "Base"
    assert [role[:6] for role in roles[1:]] == ["DeltaA", "LoRA 1", "LoRA 2"]
    assert not page.all("select")


def test_an_ingredient_of_a_recipe_can_be_taken_from_elsewhere() -> None:
    page = draw(FAR, replace(SHEET, recipe=RECIPE))
    choice = page.one("select", data_field="from.0")
    assert choice.text == "lab/base" + "copy/base"
    typed = [one["data-field"] for one in page.all("input") if one.attributes.get("data-field", "").startswith("own.")]
    assert typed == ["own.0", "own.1", "own.2", "own.3"]
    assert ("replan", "") in page.acts()
    mine = draw(replace(FAR, base="/my/<b>base"), replace(SHEET, recipe=RECIPE))
    assert mine.one("input", data_field="own.0")["value"] == "/my/<b>base"


def test_access_that_must_be_asked_for_is_said_with_its_page_and_a_token_field() -> None:
    page = draw(FAR, replace(SHEET, recipe=RECIPE))
    assert page.one("a", href="https://lab.example/ask").text == "Do that here"
    assert page.one("input", data_field="token")["type"] == "password"
    assert "value" not in page.one("input", data_field="token").attributes
    assert not draw().all("input", data_field="token")
    refused = replace(SHEET, blocked=SourceError("download.gated", repository="x", page="y"), asked=False)
    assert draw(FAR, refused).all("input", data_field="token")


def test_only_addresses_of_the_web_are_links() -> None:
    hostile = replace(RECIPE, base=replace(RECIPE.base, access="javascript:alert(1)"))
    assert not draw(FAR, replace(SHEET, recipe=hostile)).all("a")


def test_totals_stand_beside_what_is_free_with_both_figures_for_the_disk() -> None:
    facts = totals(draw())
    assert facts["Disk"] == "13.0 GB needed, 250 GB free"
    assert facts["Memory while it is made"] == "450 MB needed, 48.0 GB free"
    assert facts["Download"] == "nothing"
    assert facts["Time in all"] == "about 3 min"
    far = draw(FAR)
    assert totals(far)["Disk"] == "26.0 GB needed, 250 GB free"
    assert totals(far)["Disk, with downloads removed on the way"] == "15.0 GB needed, 250 GB free"
    assert "checked" in far.one("input", data_field="keep").attributes
    assert not draw().all("input", data_field="keep")


def test_free_space_that_cannot_be_asked_is_unknown() -> None:
    facts = totals(draw(sheet=replace(SHEET, hardware=replace(PLAIN, disk_free=None))))
    assert facts["Disk"] == "13.0 GB needed, unknown free"


def test_what_the_files_tell_is_on_the_receipt() -> None:
    told = Message("weights.found.meta", {"folder": "<i>7B</i>", "shards": 1, "dtype": "float16"})
    page = draw(sheet=replace(SHEET, found=Findings(13 * GB, 6_700_000_000, "float16", "vicuna-v1.1", (told,))))
    assert "vicuna-v1.1" in totals(page).values()
    assert page.one("section", cls="found").text.endswith("<i>7B</i>: Meta's original weights, shards: 1, float16.")


def test_a_layout_for_other_programs_another_number_format_and_the_licence_are_named() -> None:
    values = totals(draw(replace(PLAN, layout="meta", dtype="bfloat16"), replace(SHEET, recipe=RECIPE))).values()
    assert {"Meta's files (consolidated.00.pth)", "bfloat16", "Research only"} <= set(values)


def test_a_try_that_does_not_fit_is_left_out_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.plan.value.Plan.try_memory", 26 * GB)
    words = "It is made all the same; only the try is left out."
    assert totals(draw())["Memory to try it"] == "26.0 GB needed, 48.0 GB free"
    assert words not in " ".join(one.text for one in draw().all("p"))
    small = replace(SHEET, hardware=replace(SHEET.hardware, ram_free=21 * GB))
    assert words in " ".join(one.text for one in draw(sheet=small).all("p", cls="figures"))


def test_how_sure_the_figures_are_is_said() -> None:
    small = " ".join(one.text for one in draw(FAR).all("p", cls="figures"))
    assert "These figures are exact" in small
    assert "The time for the download is a guess: it assumes 10.0 MB/s." in small
    assert "no server has answered" in " ".join(one.text for one in draw(replace(FAR, estimated=True)).all("p"))
    assert "guess" not in " ".join(one.text for one in draw().all("p", cls="figures"))


def test_what_is_fetched_shows_its_version_its_servers_and_its_page() -> None:
    one = Coming(
        "lab/base", "lab/base", "abc123", "https://hub.example/lab/base", ("hub.example", "mirror"), 13 * GB, GB
    )
    row = draw(FAR, replace(SHEET, coming=(one,))).one("li", data_part="0").text
    assert "13.0 GB (1.0 GB of it here already)" in row
    assert "hub.example, or mirror version abc123" in row


def test_start_is_the_big_button_only_where_nothing_stands_in_the_way() -> None:
    free = draw()
    assert [one["data-do"] for one in free.all("button", cls="primary")] == ["begin"]
    assert free.one("input", data_field="name")["value"] == "mine-2"
    blocked = draw(sheet=replace(SHEET, blocked=UsageError("plan.exists", name="x"), blocked_lean=None))
    assert "on the shelf already" in blocked.one(role="alert").text
    assert not blocked.all("button", cls="primary")


def test_what_is_in_the_way_depends_on_whether_downloads_are_kept() -> None:
    full = MachineError("plan.disk", need=26 * GB, spare=GB, free=20 * GB, folder="/m")
    page = draw(FAR, replace(SHEET, blocked=full))
    kept, lean = page.one(cls="kept"), page.one(cls="lean")
    assert "Not enough disk space" in kept.text
    assert "Not enough disk space" not in lean.text
    assert len(page.all("button", cls="primary")) == 1


def test_a_plan_that_is_only_an_estimate_asks_again_instead_of_starting() -> None:
    problem: CriaError = SourceError("download.unreachable", host="hub", what="no route")
    page = draw(FAR, replace(SHEET, blocked=problem, blocked_lean=problem, asked=False))
    assert page.one("button", cls="primary")["data-do"] == "replan"
    assert not [act for act, _ in page.acts() if act == "begin"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_receipt_has_no_holes_in_any_language(language: str) -> None:
    text = draw(FAR, replace(SHEET, recipe=RECIPE), language).every[0].text
    assert "{" not in text
    assert "wizard." not in text
