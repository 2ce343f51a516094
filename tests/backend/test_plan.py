"""Plans: sizes come from the files, what cannot work is refused before anything is written."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import MachineError, SourceError, UsageError
from backend.hardware import Hardware, probe
from backend.plan import Plan, check_plan, estimate_plan, make_plan
from backend.recipes import custom_recipe


def weights(folder: Path, size: int, name: str = "model.safetensors") -> str:
    folder.mkdir()
    with (folder / name).open("wb") as file:
        file.truncate(size)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return str(folder)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    base, delta = weights(tmp_path / "base", 1000), weights(tmp_path / "delta", 500)
    return make_plan(custom_recipe("mine", base=base, delta=delta))


@pytest.fixture
def machine(tmp_path: Path) -> Hardware:
    return probe(tmp_path)


def test_steps_in_order_with_real_sizes(plan: Plan) -> None:
    assert [step.id for step in plan.steps] == ["fetch", "merge", "finish", "verify", "try"]
    assert plan.steps[0].reads == 0  # nothing was published with a sum, so nothing is read for its own sake
    assert plan.steps[1].reads == 1500
    assert plan.steps[1].writes == 1000
    assert plan.disk_bytes >= 1000


def test_what_has_a_published_sum_is_read_before_it_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    base = weights(folder, 1000, "consolidated.00.pth")
    (folder / "checklist.chk").write_text("0" * 32 + "  consolidated.00.pth\n", encoding="utf-8")
    assert make_plan(custom_recipe("x", base=base)).steps[0].reads == 1000


def test_an_archive_is_planned_by_what_it_unpacks_to(tmp_path: Path) -> None:
    base = weights(tmp_path / "b", 10)
    lora = tmp_path / "lora.zip"
    with zipfile.ZipFile(lora, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("lora/adapter_config.json", "{}")
        out.writestr("lora/adapter_model.bin", bytes(5000))
    plan = make_plan(custom_recipe("x", base=base, loras=[f"{lora}:0.5"]))
    assert plan.loras == ((str(lora), 0.5),)
    assert (plan.steps[0].reads, plan.steps[0].writes) == (lora.stat().st_size, 5002)
    assert plan.steps[1].reads == 5010


def test_no_self_test_means_no_try(tmp_path: Path) -> None:
    plan = make_plan(custom_recipe("mine", base=weights(tmp_path / "b", 10)), self_test=False)
    assert "try" not in [step.id for step in plan.steps]


def test_metas_layout_is_not_tried(tmp_path: Path) -> None:
    plan = make_plan(custom_recipe("mine", base=weights(tmp_path / "b", 10), layout="meta"))
    assert [step.id for step in plan.steps] == ["fetch", "merge", "finish", "verify"]
    assert plan.steps[1].title.key == "steps.merge_meta"


def test_another_number_format_is_planned_for_and_then_made_exact(tmp_path: Path) -> None:
    plan = make_plan(custom_recipe("mine", base=weights(tmp_path / "b", 1000), dtype="float32"))
    assert plan.steps[1].writes == 2000
    assert plan.steps[1].memory > 300_000_000  # torch rounds
    exact = plan.with_output(2400)
    assert [step.writes for step in exact.steps[1:4:2]] == [2400, 0]
    assert [step.reads for step in exact.steps[3:]] == [2400, 2400]
    assert Plan.from_json(exact.to_json()) == exact


def test_the_merge_says_what_it_does(tmp_path: Path) -> None:
    base, lora = weights(tmp_path / "b", 10), weights(tmp_path / "l", 10, "adapter_model.bin")
    (tmp_path / "l" / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert make_plan(custom_recipe("x", base=base)).steps[1].title.key == "steps.merge_copy"
    assert make_plan(custom_recipe("x", base=base, loras=[lora])).steps[1].title.key == "steps.merge_lora"
    both = make_plan(custom_recipe("x", base=base, delta=base, loras=[lora]))
    assert both.steps[1].title.key == "steps.merge_delta_lora"


def test_sources_of_the_wrong_kind_are_said_before_anything_starts(tmp_path: Path) -> None:
    base, lora = weights(tmp_path / "b", 10), weights(tmp_path / "l", 10, "adapter_model.bin")
    (tmp_path / "l" / "config.json").rename(tmp_path / "l" / "adapter_config.json")
    for wrong in (
        custom_recipe("x", base=lora),
        custom_recipe("x", base=base, delta=lora),
        custom_recipe("x", base=base, loras=[base]),
    ):
        with pytest.raises(SourceError) as caught:
            make_plan(wrong)
        assert caught.value.hint is not None


def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        make_plan(custom_recipe("mine", base=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("name", ["", "我的模型", "a b", "UPPER", "../evil", "sub/x", "..", ".hidden", "a" * 65, "x\n"])
def test_what_cannot_be_a_folders_name_is_refused_before_anybody_is_asked(
    plan: Plan, machine: Hardware, tmp_path: Path, name: str
) -> None:
    asked: list[str] = []
    recipe = custom_recipe("mine", base="somebody/far")
    for refuse in (
        lambda: make_plan(recipe, name=name, find=lambda source: asked.append(source)),
        lambda: estimate_plan(recipe, name=name),
        lambda: check_plan(replace(plan, name=name), machine, tmp_path),
    ):
        with pytest.raises(UsageError) as caught:
            refuse()
        assert (caught.value.key, caught.value.params["name"]) == ("recipes.bad_name", name[:80])
    assert asked == []


def test_a_name_that_is_taken_is_refused(plan: Plan, machine: Hardware, tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    with pytest.raises(UsageError, match="mine"):
        check_plan(plan, machine, tmp_path / "models")


def test_a_full_disk_is_said_with_both_numbers(plan: Plan, machine: Hardware, tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        check_plan(plan, replace(machine, disk_free=5_000_000), tmp_path)
    assert "5.0 MB" in caught.value.text()


def test_memory_that_only_the_try_out_wants_refuses_nobody(plan: Plan, machine: Hardware, tmp_path: Path) -> None:
    assert plan.must_have_memory < plan.memory_bytes == plan.try_memory
    check_plan(plan, replace(machine, ram_free=plan.must_have_memory), tmp_path)


def test_weights_that_are_there_twice_count_once(tmp_path: Path) -> None:
    folder = weights(tmp_path / "both", 1000)
    (tmp_path / "both" / "pytorch_model.bin").write_bytes(b"x" * 900)
    assert make_plan(custom_recipe("x", base=folder)).steps[1].writes == 1000


def test_too_little_memory_is_said(plan: Plan, machine: Hardware, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="memory"):
        check_plan(plan, replace(machine, ram_free=1), tmp_path)


def test_unknown_memory_and_disk_do_not_stop_anybody(plan: Plan, machine: Hardware, tmp_path: Path) -> None:
    check_plan(plan, replace(machine, ram_free=None, disk_free=None), tmp_path)
