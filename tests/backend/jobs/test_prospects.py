"""Prospects by recipe and by model on the shelf; the network's speed from journals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backend.engines.base import EngineOptions, EngineStatus
from backend.engines.fitting import Fitting
from backend.fit.measured import Memo, Speeds
from backend.fit.result import Verdict
from backend.hardware import Hardware
from backend.jobs.manager import JOURNAL, PLAN, JobManager
from backend.jobs.network import network_rate
from backend.jobs.prospects import Prospects
from backend.library import read_model
from backend.plan import FETCH, make_plan
from backend.recipes import Part, Recipe
from backend.text import Message
from tests.backend.engines import tiny
from tests.backend.fit.machines import SEVEN, SIXTY, machine

TORCH = EngineOptions(engine="transformers")
BIG = Recipe("big", {"en": "Big"}, Part("someone/big"), family="f", parameters=SIXTY.parameters, shape=SIXTY)
SMALL = Recipe("small", {"en": "Small"}, Part("someone/small"), family="f", parameters=SEVEN.parameters, shape=SEVEN)
BLANK = Recipe("blank", {"en": "?"}, Part("someone/blank"))


def test_free_memory_that_hardly_moves_does_not_count(tmp_path: Path) -> None:
    first = machine(64)
    assert first.ram_free is not None
    seen = [replace(first, ram_free=first.ram_free + more) for more in (0, 10**8, -(10**8), -(10**10))]
    made = prospects(tmp_path, first)
    calmed = [made._calm(lambda one=one: one).ram_free for one in seen]  # type: ignore[misc]
    assert calmed == [first.ram_free] * 3 + [first.ram_free - 10**10]


def prospects(tmp_path: Path, hardware: Hardware) -> Prospects:
    return Prospects(
        Fitting(tmp_path),
        JobManager(tmp_path),
        tmp_path / "jobs",
        hardware=lambda: hardware,
        status=EngineStatus,
        recipes=lambda: (BIG, SMALL, BLANK),
    )


def test_a_recipe_too_large_names_the_smaller_size(tmp_path: Path) -> None:
    found = prospects(tmp_path, machine(20, 24)).of_recipe(BIG, TORCH)
    assert (found.verdict, found.alternatives) == (Verdict.NO, ("small",))
    assert found.remedy == Message("fit.remedy.smaller", {"name": "small"})
    assert prospects(tmp_path, machine(20, 24)).of_recipe(SMALL, TORCH).verdict is Verdict.WELL


def test_a_recipe_without_a_shape_is_not_judged(tmp_path: Path) -> None:
    found = prospects(tmp_path, machine(1)).of_recipe(BLANK, TORCH)
    assert (found.best, found.verdict, found.remedy) == (None, None, None)


def test_the_recipes_own_context_counts(tmp_path: Path) -> None:
    longer = prospects(tmp_path, machine(8, 24)).of_recipe(replace(SMALL, context=4096), TORCH)
    assert longer.ways[0].context == 4096


def test_a_model_on_the_shelf(tmp_path: Path) -> None:
    model = read_model(tiny.write_model(tmp_path / "tiny"))
    here = prospects(tmp_path, machine(8))
    assert here.of_model(model, TORCH).verdict is Verdict.WELL
    assert here.best_options(model, TORCH) == TORCH
    (model.folder / "config.json").write_text('{"model_type": "strange"}')
    assert here.of_model(model, TORCH).verdict is None
    assert here.best_options(model, TORCH) == TORCH


def test_rates_are_those_measured_and_say_so(tmp_path: Path) -> None:
    here = prospects(tmp_path, machine(8))
    assert (here.rates().disk_measured, here.rates().network_measured) == (False, False)
    Memo(tmp_path).keep_speeds(Speeds(None, 2e8, 1e10, 5.0))
    assert (here.rates().read, here.rates().write, here.rates().disk_measured) == (2e8, 2e8, True)


def job(tmp_path: Path, name: str, marks: list[tuple[float, int]], *, downloads: int = 10**9) -> None:
    base = tmp_path / "base"
    base.mkdir(exist_ok=True)
    (base / "model.safetensors").write_bytes(b"x" * 10)
    plan = make_plan(Recipe("r", {"en": "R"}, Part(str(base))))
    steps = tuple(replace(step, downloads=downloads if step.id == FETCH else 0) for step in plan.steps)
    folder = tmp_path / "jobs" / name
    folder.mkdir(parents=True)
    (folder / PLAN).write_text(json.dumps(replace(plan, steps=steps).to_json()))
    lines = [{"e": "run", "pid": 1, "t": 1.0}, {"e": "step", "id": FETCH, "m": 0.0}]
    lines += [{"e": "progress", "id": FETCH, "m": m, "done": done, "total": 10**9} for m, done in marks]
    (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"e": "done"}]))


@pytest.mark.parametrize(
    ("marks", "downloads", "rate"),
    [
        ([(1.0, 400_000_000), (11.0, 500_000_000)], 10**9, 10e6),  # what was there already is no speed
        ([(1.0, 0), (11.0, 50_000_000), (0.5, 50_000_000), (10.5, 150_000_000)], 10**9, 7.5e6),  # a second run
        ([(1.0, 0), (2.0, 500_000_000)], 10**9, None),  # too short to tell
        ([(1.0, 0), (60.0, 1000)], 10**9, None),
        ([(1.0, 0), (60.0, 10**9)], 0, None),  # unpacked from this very disk
        ([], 10**9, None),
    ],
)
def test_the_network_was_as_fast_as_the_last_download(
    tmp_path: Path, marks: list[tuple[float, int]], downloads: int, rate: float | None
) -> None:
    job(tmp_path, "20260101-000000-r", marks, downloads=downloads)
    assert network_rate(JobManager(tmp_path), tmp_path / "jobs") == (None if rate is None else pytest.approx(rate))


def test_the_newest_download_that_can_tell_counts(tmp_path: Path) -> None:
    job(tmp_path, "20260101-000000-a", [(0.0, 0), (10.0, 10**8)])
    job(tmp_path, "20260102-000000-b", [(0.0, 0), (10.0, 5 * 10**8)])
    job(tmp_path, "20260103-000000-c", [(0.0, 0)])
    assert network_rate(JobManager(tmp_path), tmp_path / "jobs") == pytest.approx(5e7)
