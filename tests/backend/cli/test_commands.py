"""Terminal commands on real services with imaginary steps: what they print, where, and what they return."""

import argparse
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from backend.cli import commands, models, recipes
from backend.cli import setup as setting_up
from backend.cli.parser import build_parser
from backend.errors import MachineError, SourceError, UsageError
from backend.jobs.view import JobState, JobView
from backend.plan import make_plan
from backend.services import Services


@pytest.fixture
def base(tmp_path: Path) -> str:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    return str(folder)


def parse(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(words)


def test_check_prints_one_json_document(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.check(parse("check", "--json"), services) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ram_total"] > 0
    assert shown["disk_path"].endswith("models")


def test_check_says_what_is_unknown(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    commands.check(parse("check"), services)
    text = capsys.readouterr().out
    assert "RAM" in text
    assert "torch" in text
    assert "cli." not in text


def test_recipes_and_models_as_text_and_json(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    recipes.recipes(parse("recipes"), services)
    assert "demo" in capsys.readouterr().out
    recipes.recipes(parse("recipes", "--json"), services)
    assert json.loads(capsys.readouterr().out)[0]["name"] == "demo"
    models.models(parse("models"), services)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "setup demo" in shown.err
    models.models(parse("models", "--json"), services)
    assert json.loads(capsys.readouterr().out) == []


def test_a_dry_run_changes_nothing(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    assert setting_up.setup(parse("setup", "demo", "--dry-run"), services) == 0
    assert "1. " in capsys.readouterr().out
    assert setting_up.setup(parse("setup", "demo", "--dry-run", "--json"), services) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "demo"
    assert list(services.settings.models_dir.iterdir()) == []
    assert services.jobs.views() == ()


def test_a_set_up_ends_with_the_next_command(services: Services, base: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert setting_up.setup(parse("setup", "--base", base, "--name", "mine"), services) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "app.py chat mine" in shown.err
    assert "Hi." in shown.err


def test_a_failed_set_up_returns_1_with_its_reason(
    services: Services, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("setup", "--base", base, "--name", "mine", "--template", "disk-full")
    assert setting_up.setup(parse(*words), services) == 1
    assert "is full: No space left on device" in capsys.readouterr().err


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(
    services: Services, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("setup", "--base", base, "--name", "mine", "--template", "slow")

    def press() -> None:
        while not any(view.steps[1].done >= 3 for view in services.jobs.views()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    assert setting_up.setup(parse(*words), services) == 130
    presser.join()
    assert "same command" in capsys.readouterr().err
    (view,) = services.jobs.views()
    assert view.state is JobState.CANCELLED
    services.jobs.change(view.id, replace(services.jobs.plan(view.id), keep_sources=False))  # on the page, say
    assert setting_up.setup(parse(*words), services) == 0
    assert len(services.jobs.views()) == 1
    assert not services.jobs.plan(view.id).keep_sources


def shelve(services: Services, name: str, **record: object) -> Path:
    """Put a model on the shelf by hand."""
    folder = services.settings.models_dir / name
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "cria.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_setting_up_a_recipe_again_is_no_error(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    shelve(services, "demo", recipe="demo", template="vicuna-v1.1")
    assert setting_up.setup(parse("setup", "demo", "--json"), services) == 0
    shown = capsys.readouterr()
    assert "already" in shown.err
    assert json.loads(shown.out)["name"] == "demo"
    with pytest.raises(UsageError):  # that one is in another number format
        setting_up.setup(parse("setup", "demo", "--dtype", "float32"), services)


def test_other_sources_under_a_name_that_is_taken_are_refused(services: Services, base: str) -> None:
    shelve(services, "mine", recipe="mine")
    with pytest.raises(UsageError) as caught:
        setting_up.setup(parse("setup", "--base", base, "--name", "mine"), services)
    assert caught.value.key == "plan.exists"


def test_a_relative_path_means_the_persons_folder_and_not_crias(
    services: Services, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(base).parent)
    assert setting_up.setup(parse("setup", "--base", "./base", "--name", "mine"), services) == 0
    assert services.jobs.plan(services.jobs.views()[0].id).base == base


def test_the_same_command_twice_watches_the_job_that_runs(
    services: Services, base: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = parse("setup", "--base", base, "--name", "mine", "--template", "slow")
    job = services.set_up(make_plan(setting_up.wanted_recipe(args, services), name=args.name))
    follow = setting_up.follow

    def paused(watched: str, services: Services) -> JobView:
        services.jobs.pause(watched)
        return follow(watched, services)

    monkeypatch.setattr(setting_up, "follow", paused)
    assert setting_up.setup(args, services) == 130
    assert services.jobs.views()[0].id == job
    assert "already" in capsys.readouterr().err
    assert len(services.jobs.views()) == 1


def test_a_model_is_taken_off_the_shelf(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shelve(services, "old")
    assert models.models(parse("models", "--delete", "old"), services) == 0
    assert "old" in capsys.readouterr().err
    assert not folder.exists()
    with pytest.raises(UsageError, match="old"):
        models.models(parse("models", "--delete", "old"), services)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("setup",), "cli.no_recipe"),
        (("setup", "--delta", "/x"), "cli.no_base"),
        (("setup", "--base", "/x"), "cli.no_name"),
        (("setup", "--base", "/x", "--name", "../up"), "recipes.bad_name"),
        (("setup", "demo", "--name", "../up"), "recipes.bad_name"),
        (("setup", "demo", "--name", "我的模型"), "recipes.bad_name"),
        (("setup", "demo", "--name", ""), "recipes.bad_name"),
        (("setup", "demo", "--name", "a/b", "--dry-run"), "recipes.bad_name"),
        (("setup", "vicuna"), "recipes.unknown"),
        (("setup", "--base", "/no/such", "--name", "x"), "sources.missing"),
    ],
)
def test_bad_input_names_the_way_out(services: Services, words: tuple[str, ...], key: str) -> None:
    with pytest.raises((UsageError, SourceError)) as caught:
        setting_up.setup(parse(*words), services)
    assert caught.value.key == key
    assert caught.value.hint is not None
    assert services.jobs.views() == ()


def test_a_small_disk_is_refused_before_anything_is_written(
    services: Services, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.hardware.disk_space", lambda _: (10_000_000, 1_000_000))
    with pytest.raises(MachineError, match=r"1\.0 MB free"):
        setting_up.setup(parse("setup", "--base", base, "--name", "mine"), services)
    assert services.jobs.views() == ()
