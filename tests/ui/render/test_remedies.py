"""Ways out of trouble: a table whose keys exist, and for each error the one button that most likely helps."""

import re

import pytest

from backend.errors import CriaError, EngineError, MachineError, SourceError, WeightsError
from backend.settings import ROOT
from backend.text import LANGUAGES, catalogue
from tests.ui.render.reading import Page
from ui.render.remedies import FIXES, Fix, Means, fix_for, remedy
from ui.wiring.setup_acts import CHANGING

NONE = Means()


def test_every_key_of_the_table_is_an_error_or_an_area_of_errors() -> None:
    said = {key.removesuffix(".say") for key in catalogue("en") if key.endswith(".say")}
    areas = {key.partition(".")[0] + "." for key in said}
    assert set(FIXES) <= said | areas


def test_every_button_means_something() -> None:
    assert {str(fix) for fix in Fix} <= set(CHANGING)


@pytest.mark.parametrize(
    ("error", "means", "fix"),
    [
        (SourceError("download.gated", repository="x", page="y"), NONE, Fix.TOKEN),
        (SourceError("download.unreachable", host="x", what="y"), NONE, Fix.RETRY),
        (SourceError("download.wrong_bytes", file="x"), NONE, Fix.MEND),
        (MachineError("download.disk_full"), Means(unused_bytes=1, can_be_lean=True), Fix.FREE),
        (MachineError("weights.disk_full"), Means(can_be_lean=True), Fix.LEAN),
        (MachineError("job.disk_full"), NONE, Fix.RETRY),
        (MachineError("weights.target_exists", folder="x"), NONE, Fix.RENAME),
        (EngineError("engine.killed"), NONE, Fix.UNTRIED),
        (MachineError("engine.no_room_ram"), NONE, Fix.UNTRIED),
        (EngineError("steps.try_timeout", seconds=1.0), NONE, Fix.UNTRIED),
        (SourceError("sources.checksum"), NONE, Fix.MEND),
        (WeightsError("weights.truncated"), NONE, Fix.MEND),
        (WeightsError("weights.hash_differs"), NONE, Fix.RETRY),
        (CriaError("error.unexpected", kind="x", what="y"), NONE, Fix.RETRY),
        (MachineError("job.memory"), NONE, Fix.RETRY),
    ],
)  # fmt: skip
def test_the_likeliest_way_out(error: CriaError, means: Means, fix: Fix) -> None:
    assert fix_for(error, means) is fix


def test_every_error_that_ends_a_set_up_has_a_button_with_words() -> None:
    raised = re.compile(r'(MachineError|SourceError|WeightsError|EngineError|JobError)\(\s*"([a-z_]+\.[a-z_.]+)"')
    kinds = {kind.__name__: kind for kind in CriaError.__subclasses__()}
    found = 0
    for area in ("weights", "sources", "jobs", "engines"):
        for path in (ROOT / "backend" / area).rglob("*.py"):
            for kind, key in raised.findall(path.read_text(encoding="utf-8")):
                page = Page(remedy(kinds[kind](key), "job", "en", NONE))
                assert page.one("button", cls="primary").text
                found += 1
    assert found > 100


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("key", sorted({key for key in FIXES if not key.endswith(".")}))
def test_the_button_comes_with_the_field_it_needs(key: str, language: str) -> None:
    page = Page(remedy(CriaError(key), "<job>", language, Means(1, free_name="mine-2")))
    fix = FIXES[key]
    fields = {one["data-field"]: one for one in page.all("input")}
    assert set(fields) == {Fix.TOKEN: {"token"}, Fix.RENAME: {"name"}}.get(fix, set())
    assert page.one("button")["data-name"] == "<job>"
    assert "{" not in page.one("button").text
    if fix is Fix.RENAME:
        assert fields["name"]["value"] == "mine-2"
