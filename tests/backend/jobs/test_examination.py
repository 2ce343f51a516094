"""Looking before leaping: what sources come to is known, and what cannot work is said, before a job exists."""

from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import SourceError, WeightsError
from backend.jobs.examination import Findings, examine
from backend.plan import Plan, make_plan
from backend.recipes import custom_recipe, find_recipe, read_recipes
from backend.settings import ASSETS
from backend.text import LANGUAGES, tell
from tests.backend.weights import make_t5
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf

NOWHERE = Path("/nowhere")  # nothing was fetched
BASE, DELTA = "builtin:demo/base", "builtin:demo/delta"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(find_recipe(read_recipes([ASSETS / "recipes"]), "demo"))


def test_the_demo_is_understood_from_its_headers(plan: Plan) -> None:
    found = examine(plan, NOWHERE)
    assert found is not None
    assert (found.dtype, found.template) == ("float16", "vicuna-v1.1")
    assert found.bytes == 2 * found.parameters > 5_000_000
    assert "weights.found.meta" in {note.key for note in found.notes}
    assert all("{" not in tell(language, note) for language in LANGUAGES for note in found.notes)


def test_sizes_become_exact(plan: Plan) -> None:
    found = examine(replace(plan, dtype="float32"), NOWHERE)
    assert found is not None
    exact = plan.with_output(found.bytes)
    assert found.bytes == 4 * found.parameters
    assert [step.writes for step in exact.steps if step.id == "merge"] == [found.bytes]
    assert [step.reads for step in exact.steps if step.id in {"verify", "try"}] == [found.bytes] * 2


def test_metas_layout_is_counted_to_the_byte(plan: Plan) -> None:
    found = examine(replace(plan, layout="meta"), NOWHERE)
    assert found is not None
    assert found.template is None
    assert 0 < found.bytes - 2 * found.parameters < 100_000  # two zip files with their lists


def test_findings_survive_the_way_between_processes(plan: Plan) -> None:
    found = examine(plan, NOWHERE)
    assert found is not None
    assert Findings.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("base", "delta", "key"),
    [(BASE, BASE, "weights.delta_is_base"), (DELTA, BASE, "weights.base_is_delta")],
)
def test_what_cannot_work_is_said_before_anything_starts(base: str, delta: str, key: str) -> None:
    with pytest.raises(WeightsError) as raised:
        examine(make_plan(custom_recipe("x", base=base, delta=delta)), NOWHERE)
    assert raised.value.key == key
    assert "{" not in raised.value.text()


def test_a_tokenizer_that_does_not_fit_is_said_before_anything_starts(tmp_path: Path) -> None:
    for name in ("consolidated.00.pth", "consolidated.01.pth", "params.json"):
        (tmp_path / name).symlink_to(ASSETS / "demo" / "base" / name)
    with pytest.raises(WeightsError) as raised:
        examine(make_plan(custom_recipe("x", base=str(tmp_path))), NOWHERE)
    assert raised.value.key == "weights.tokenizer_missing"


@pytest.mark.parametrize(
    ("config", "tokenizer", "key"),
    [
        ({}, False, "weights.tokenizer_missing"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, True, "meta.cannot_scale"),
        ({"model_type": "mistral"}, True, "finish.llama_only"),
    ],
)
def test_what_metas_layout_cannot_hold_is_said_before_anything_starts(
    tmp_path: Path, config: dict[str, object], tokenizer: bool, key: str
) -> None:
    tiny = Tiny(vocab=500, layers=1)
    write_hf(tmp_path, tiny, weights(tiny), **config)
    if tokenizer:
        (tmp_path / "tokenizer.model").write_bytes(tokenizer_model())
    with pytest.raises(WeightsError) as raised:
        examine(make_plan(custom_recipe("x", base=str(tmp_path), layout="meta")), NOWHERE)
    assert raised.value.key == key


def test_a_model_of_another_kind_is_rehearsed_too(tmp_path: Path) -> None:
    folder = make_t5.write_t5(tmp_path / "t5")
    plan = make_plan(custom_recipe("x", base=str(folder)))
    found = examine(plan, NOWHERE)
    assert found is not None
    assert found.template == "fastchat-t5"
    assert "finish.found.fast_built" in {note.key for note in found.notes}
    (folder / "spiece.model").unlink()
    with pytest.raises(WeightsError) as raised:
        examine(plan, NOWHERE)
    assert raised.value.key == "weights.tokenizer_missing"


def test_a_source_that_went_away_is_named(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(SourceError):
        examine(replace(plan, base=str(tmp_path / "gone")), NOWHERE)


def test_no_answer_in_time_is_no_obstacle(plan: Plan) -> None:
    assert examine(plan, NOWHERE, timeout_s=0.001) is None


def test_a_delta_alone_is_no_model() -> None:
    with pytest.raises(WeightsError) as raised:
        examine(make_plan(custom_recipe("x", base=DELTA)), NOWHERE)
    assert raised.value.key == "delta.alone"
