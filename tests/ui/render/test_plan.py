"""The receipt: every step with its figures, totals beside what is free, and why a plan cannot start."""

from dataclasses import replace

from backend.jobs.examination import Findings
from backend.plan import Plan, Step
from backend.text import Message
from tests.ui.render.reading import Page
from tests.ui.render.test_hardware import PLAIN
from ui.render.plan import plan_receipt

GB = 1_000_000_000
PLAN = Plan(
    recipe="mine", title={"en": "Mine <b>"}, name="mine", base="/raw/7B", delta="builtin:demo/delta",
    loras=(("/lora/a", None), ("/lora/b", 0.5)), template=None, context=2048, questions=None,
    steps=(
        Step("fetch", Message("steps.fetch"), 27 * GB, 0, 120_000_000),
        Step("merge", Message("steps.merge_delta"), 27 * GB, 13 * GB, 450_000_000, 2.0),
    ),
)  # fmt: skip


def test_every_step_shows_what_it_reads_writes_and_needs() -> None:
    page = Page(plan_receipt(PLAN, PLAIN, "en"))
    assert [one.text for one in page.all("th", scope="row")] == [
        "Fetch: read and check the source files",
        "Convert and apply the delta, in one pass",
    ]
    cells = [(one["data-label"], one.text) for one in page.all("td")]
    assert cells[4:] == [("Reads", "27.0 GB"), ("Writes", "13.0 GB"), ("Memory", "450 MB"), ("Time", "about 1:39")]
    assert cells[1] == ("Writes", "–")


def test_ingredients_are_named_in_order_with_their_scale() -> None:
    facts = Page(plan_receipt(PLAN, PLAIN, "en")).facts()
    assert facts["Base"] == "/raw/7B"
    assert facts["Delta"] == "ships with Cria (demo/delta)"
    assert (facts["LoRA 1"], facts["LoRA 2"]) == ("/lora/a", "/lora/b (scale 0.5)")
    assert facts["Prompt format"] == "worked out from the files"


def test_totals_stand_beside_what_is_free() -> None:
    facts = Page(plan_receipt(PLAN, PLAIN, "en")).facts()
    assert facts["Disk"] == "13.0 GB needed, 250 GB free"
    assert facts["Memory at its peak"] == "450 MB needed, 48.0 GB free"
    assert facts["Download"] == "nothing"
    assert facts["Time in all"] == "about 2:33"


def test_free_space_that_cannot_be_asked_is_unknown() -> None:
    facts = Page(plan_receipt(PLAN, replace(PLAIN, disk_free=None), "en")).facts()
    assert facts["Disk"] == "13.0 GB needed, unknown free"


def test_what_the_files_tell_is_on_the_receipt() -> None:
    told = Message("weights.found.meta", {"folder": "<i>7B</i>", "shards": 1, "dtype": "float16"})
    found = Findings(13 * GB, 6_700_000_000, "float16", "vicuna-v1.1", (told,))
    page = Page(plan_receipt(PLAN, PLAIN, "en", found=found))
    assert page.facts()["Prompt format"] == "vicuna-v1.1"
    assert [one.text for one in page.all("li")] == ["<i>7B</i>: Meta's original weights, 1 shard(s), float16."]


def test_a_layout_for_other_programs_and_another_number_format_are_named() -> None:
    facts = Page(plan_receipt(replace(PLAN, layout="meta", dtype="bfloat16"), PLAIN, "en")).facts()
    assert facts["Written as"] == "Meta's files (consolidated.00.pth)"
    assert facts["Number format"] == "bfloat16"
    assert "Prompt format" not in facts


def test_the_time_of_a_download_is_said_to_be_a_guess() -> None:
    fetch = replace(PLAN.steps[0], writes=13 * GB, downloads=13 * GB)
    page = Page(plan_receipt(replace(PLAN, steps=(fetch, PLAN.steps[1])), PLAIN, "en"))
    assert page.facts()["Download"] == "13.0 GB"
    assert page.one("p", cls="figures").text == "The time for the download is a guess: it assumes 10.0 MB/s."
    assert not Page(plan_receipt(PLAN, PLAIN, "en")).all("p", cls="figures")
