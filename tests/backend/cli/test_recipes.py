"""The terminal's recipes and plans: found by words, shown without a network, made from sources of one's own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.cli import recipes
from backend.cli import setup as setting_up
from backend.cli.draw import width
from backend.cli.parser import build_parser
from backend.cli.recipes import wrapped
from backend.conversations import Conversations
from backend.engines.supervisor import Supervisor
from backend.errors import SourceError, UsageError
from backend.fit.result import Outlook, Verdict
from backend.jobs.manager import JobManager
from backend.plan import Plan
from backend.recipes import Recipe
from backend.services import Services
from backend.settings import Settings

DOWN = SourceError("download.offline", host="hub")
GATED = SourceError("download.gated", repository="a/b", host="hub", page="p")


class Offline(Services):
    """Services without a network; ``said`` is what every look-up ends with."""

    said: SourceError = DOWN

    def plan(self, recipe: Recipe | str, **more: Any) -> Plan:
        if not isinstance(recipe, str) and self.is_remote(recipe):
            raise self.said
        return super().plan(recipe, **more)


class Shut(Offline):
    """Services of somebody who may not have what they ask for."""

    said = GATED


def built(kind: type[Offline], settings: Settings) -> Offline:
    return kind(
        settings=settings,
        jobs=JobManager(settings.data_dir),
        engine=Supervisor(settings.logs_dir),
        conversations=Conversations(settings.database),
        examiner=lambda *_: None,
    )


@pytest.fixture
def services(settings: Settings) -> Offline:
    return built(Offline, settings)


def run(services: Services, *words: str) -> int:
    args = build_parser().parse_args(words)
    return (recipes.recipes if words[0] == "recipes" else setting_up.setup)(args, services)


def test_recipes_are_grouped_by_family_and_fit_the_screen(
    services: Offline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(services, "recipes") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if width(line) > 80] == []
    assert run(services, "recipes", "vicuna", "--size", "13b") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Vicuna v1.1") for line in lines)
    assert any("vicuna-13b-v1.1" in line and "52.1 GB" in line for line in lines)
    assert not any("7b" in line for line in lines)


def test_what_does_not_run_here_can_be_left_out(services: Offline, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(services, "recipes", "--fits", "--size", "72B", "--json") == 0
    every = {recipe.name for recipe in services.recipes() if recipe.size == "72B"}
    fits = {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert fits == {name for name in every if services.outlook(name).verdict is not Verdict.NO}


def test_every_family_once_with_the_sizes_that_were_asked_for(
    services: Offline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(services, "recipes", "33b") == 0
    out = capsys.readouterr().out
    assert out.count("Vicuna v1.3") == 1
    assert "vicuna-33b-v1.3" in out
    assert "vicuna-7b-v1.3" not in out
    for verdict, word in ((Verdict.WELL, "Runs well; "), (Verdict.TIGHT, "Tight; "), (None, "Not known; ")):
        monkeypatch.setattr(Services, "outlook", lambda *_, verdict=verdict: Outlook(None, verdict=verdict))
        assert run(services, "recipes", "33b", "--fits") == 0
        assert word in next(line for line in capsys.readouterr().out.splitlines() if "vicuna-33b" in line)
    monkeypatch.setattr(Services, "outlook", lambda *_: Outlook(None, verdict=Verdict.NO))
    run(services, "recipes", "33b", "--fits")
    told = capsys.readouterr()
    assert told.out == ""
    assert "fits here" in told.err
    assert "vicuna-33b-v1.3" in told.err


def test_a_filter_without_a_hit_says_so(services: Offline, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(services, "recipes", "zebra") == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "app.py recipes" in told.err


def test_a_broken_file_of_ones_own_is_told_with_its_reason(
    services: Offline, capsys: pytest.CaptureFixture[str]
) -> None:
    services.settings.recipes_dir.mkdir(parents=True, exist_ok=True)
    (services.settings.recipes_dir / "mine.toml").write_text('name = "mine"\ntitle = "M"\n[base]\nsauce = "x"\n')
    run(services, "recipes", "demo")
    assert "base.sauce" in capsys.readouterr().err
    with pytest.raises(UsageError):
        run(services, "setup", "mine")
    assert "base.sauce" in capsys.readouterr().err
    assert [problem.params["file"] for problem in services.recipe_problems()] == ["mine.toml"]


def test_recipes_as_json_have_their_estimates(services: Offline, capsys: pytest.CaptureFixture[str]) -> None:
    run(services, "recipes", "--language", "zh", "--size", "7B", "--json")
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["chinese-alpaca-pro-7b"]["estimate"]["download_bytes"] > 15e9
    assert rows["chinese-alpaca-pro-7b"]["shape"]["vocab"] == 49954
    assert "vicuna-7b-v1.1" not in rows


def test_without_a_network_the_plan_is_an_estimate_and_says_so(
    services: Offline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(services, "setup", "qwen2.5-0.5b-instruct", "--dry-run") == 0
    told = capsys.readouterr()
    assert "An estimate" in told.out
    assert "Qwen/Qwen2.5-0.5B-Instruct, about 988 MB" in told.out
    assert "hub" in told.err
    assert run(services, "setup", "qwen2.5-0.5b-instruct", "--dry-run", "--json", "--no-keep-sources") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["keep_sources"] is False
    assert (shown["estimated"], shown["problem"]["key"]) == (True, "download.offline")
    assert shown["figures"]["download_bytes"] == 988_065_536


def test_a_refusal_is_an_error_behind_the_estimate(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError) as caught:
        run(built(Shut, settings), "setup", "llama-3.2-1b-instruct", "--dry-run")
    assert caught.value is GATED
    assert "https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct" in capsys.readouterr().out


def test_what_nobody_knows_beforehand_is_not_estimated(services: Offline) -> None:
    with pytest.raises(SourceError) as caught:
        run(services, "setup", "--base", "some/where", "--name", "x", "--dry-run")
    assert caught.value is DOWN


def test_metas_files_on_disk_take_the_place_of_a_recipes_base(
    services: Offline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "7B"
    folder.mkdir()
    (folder / "params.json").write_text("{}")
    (folder / "consolidated.00.pth").write_bytes(b"x" * 1000)
    assert run(services, "setup", "vicuna-7b-v1.1", "--base", str(folder), "--dry-run", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["base"] == str(folder)
    assert (shown["recipe"], shown["template"]) == ("vicuna-7b-v1.1", "vicuna-v1.1")
    assert shown["figures"]["download_bytes"] == services.estimate("vicuna-7b-v1.3").download_bytes


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("vicuna-7b-v1.3", "--delta", "a/b"), "recipes.no_delta"),
        (("chinese-alpaca-pro-7b", "--lora", "a/b"), "recipes.other_loras"),
        (("llama-7b", "--delta-rule", "zero"), "cli.rule_without_delta"),
    ],
)
def test_sources_without_a_place_in_the_recipe_are_refused(services: Offline, words: tuple[str, ...], key: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(services, "setup", *words, "--dry-run")
    assert caught.value.key == key


def test_flags_change_a_recipe() -> None:
    args = build_parser().parse_args(["setup", "vicuna-7b-v0", "--delta-rule", "mean", "--dtype", "float16"])
    recipe = Recipe("vicuna-7b-v0", {"en": "V"}, _part("b"), _part("d"))

    class Shelf:
        def recipes(self) -> tuple[Recipe, ...]:
            return (recipe,)

    mine = setting_up.wanted_recipe(args, Shelf())  # type: ignore[arg-type]
    assert mine.delta is not None
    assert (mine.delta.rule, mine.dtype) == ("mean", "float16")
    assert replace(mine, delta=recipe.delta, dtype=None) == recipe


def _part(source: str) -> Any:
    from backend.recipes import Part

    return Part(source)


def test_lines_break_between_words_and_anywhere_in_chinese() -> None:
    assert list(wrapped("one two three", 9, " ")) == [" one two", " three"]
    assert list(wrapped("多数教程讲的就是，这版", 8, "")) == ["多数教程", "讲的就", "是，这版"]
    assert list(wrapped("extraordinarily", 5, "")) == ["extraordinarily"]
    assert list(wrapped("", 5, "")) == []
