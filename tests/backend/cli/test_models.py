"""The terminal's ``models``: every action, its exit code, and one JSON document where it is asked for."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.cli import models
from backend.cli.parser import build_parser
from backend.errors import UsageError, WeightsError
from backend.jobs.shelf import Shelf
from backend.jobs.view import JobState, JobView
from backend.library.adopt import adopted
from backend.library.looking import Looker
from backend.library.record import Checked
from backend.services import Services
from backend.settings import Settings
from backend.units import bytes_text
from backend.weights.provenance import SelfTest
from tests.backend.library.folders import ask_here, bare, early, examine_here
from tests.backend.weights.gguf_files import write_tiny


@pytest.fixture
def services(services: Services, settings: Settings) -> Services:
    looker = Looker(settings.models_dir, settings.data_dir / "kept.json", examine=examine_here)
    shelf = Shelf(settings.data_dir, services.jobs, services.engine.status, looker=looker, ask=ask_here)
    services.__dict__["shelf"] = shelf
    early(settings.models_dir / "old")
    return services


def run(services: Services, *words: str) -> int:
    return models.models(build_parser().parse_args(["models", *words]), services)


def test_the_list_names_what_is_wrong(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(services) == 0
    text = capsys.readouterr().out
    assert "LLaMATokenizer" in text
    assert run(services, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["loaded"], row["checking"], row["dtype"]) == ("old", False, False, "float16")
    assert row["fits"] in {"well", "tight", "no"}
    assert {fault["way"] for fault in row["faults"]} == {"mend"}
    assert "models.fault.no_template" in [fault["key"] for fault in row["faults"]]


@pytest.mark.parametrize("harm", ["cut", "damaged by the last check", "no JSON"])
def test_damage_comes_first_and_voids_what_a_try_out_saw(
    services: Services, settings: Settings, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    folder = settings.models_dir / "old"
    record = adopted(folder)
    record["self_test"] = asdict(SelfTest(verified=True, stops=True))
    record["checked"] = {"when": "2026-01-01T00:00:00+00:00", "files": 3, "bad": []}
    if harm == "cut":
        file = next(path for path in folder.iterdir() if path.suffix in {".bin", ".safetensors"})
        file.write_bytes(file.read_bytes()[:-100])
        says = f"{file.name} is cut off"
    elif harm == "no JSON":
        (folder / "config.json").write_text("{\n not", encoding="utf-8")
        says = "config.json cannot be read: line 2, column 2"
    else:
        record["checked"]["bad"] = ["lost.bin"]
        says = "lost.bin"
    (folder / "cria.json").write_text(json.dumps(record), encoding="utf-8")
    assert run(services) == 0
    text = capsys.readouterr().out
    assert says in text.splitlines()[0]
    assert "stops by itself" not in text


def test_a_folder_whose_name_is_no_text_can_be_printed(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    (services.settings.models_dir / "bad\udcff\x1b[2J").mkdir()
    assert run(services) == 0
    assert run(services, "--json") == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    text.encode()


def test_repair_undo_rename_and_delete(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(services, "--repair", "old", "--template", "vicuna-v1.1", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["faults"], row["template"], row["mended"]) == ([], "vicuna-v1.1", True)
    assert run(services, "--undo", "old") == 0
    assert run(services, "--drop-converted", "old") == 0
    assert run(services, "--rename", "old", "new") == 0
    assert run(services, "--delete", "new") == 0
    assert list(services.models()) == []
    with pytest.raises(UsageError):
        run(services, "--repair", "old")


@pytest.mark.parametrize(
    ("state", "error", "code"),
    [
        (JobState.DONE, None, 0), (JobState.CANCELLED, None, 130),
        (JobState.FAILED, WeightsError("models.damaged", name="old", count=1, files="a.bin", file="a.bin"), 1),
    ],
)  # fmt: skip
def test_a_check_ends_with_its_code_and_names_the_damaged_file(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    state: JobState, error: WeightsError | None, code: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(services.shelf, "check", lambda name: f"job of {name}")
    monkeypatch.setattr(services.shelf, "watch", lambda job: JobView(job, "", {}, "old", state, error=error))
    assert run(services, "--verify", "old", "--json") == code
    shown = capsys.readouterr()
    assert json.loads(shown.out)["state"] == state
    assert ("a.bin" in shown.err) is (error is not None)


@pytest.mark.parametrize(
    ("noted", "said", "unsaid"),
    [(0, "as they should be (3)", "record"), (1, "as they should be (2)", "(3)"), (3, "3 of the files", "should be")],
)  # fmt: skip
def test_a_check_speaks_of_what_it_could_not_compare_only_where_there_is_some(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    noted: int, said: str, unsaid: str,
) -> None:  # fmt: skip
    info = SimpleNamespace(name="old", checked=Checked("2026-01-01T00:00:00+00:00", 3, noted=noted))
    monkeypatch.setattr(services.shelf, "check", lambda name: "job")
    monkeypatch.setattr(services.shelf, "watch", lambda job: JobView(job, "", {}, "old", JobState.DONE))
    monkeypatch.setattr(services.shelf, "find", lambda name: SimpleNamespace(info=info))
    assert run(services, "--verify", "old") == 0
    told = capsys.readouterr().err
    assert said in told
    assert unsaid not in told
    assert ("on record" in told) is (noted > 0)


def test_an_export_is_a_set_up_from_this_folder(
    services: Services, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(services, "--export", "old", "--layout", "meta", "--name", "old-meta", "--json") == 0
    job = json.loads(capsys.readouterr().out)
    plan = services.jobs.plan(job["id"])
    assert (plan.base, plan.layout, plan.name) == (str(settings.models_dir / "old"), "meta", "old-meta")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--layout", "meta"], "models.only_export"),
        (["--name", "x"], "models.only_export"),
        (["--export", "old", "--template", "alpaca"], "models.only_repair"),
        (["--export", "old", "--name", "x"], "models.nothing_to_export"),
        (["--export", "old", "--dtype", "float32"], "models.no_name"),
        (["--verify", "none"], "library.unknown"),
        (["--name", ""], "models.only_export"),
        (["--export", "old", "--layout", "meta", "--name", "../up"], "recipes.bad_name"),
        (["--adopt", "/no/such.gguf", "--name", "sub/x"], "recipes.bad_name"),
        (["--adopt", "/no/such.gguf", "--name", ""], "recipes.bad_name"),
    ],
)
def test_what_makes_no_sense_is_said(services: Services, words: list[str], key: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(services, *words)
    assert caught.value.key == key


def test_two_actions_at_once_are_wrong_usage(services: Services, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        run(services, "--verify", "old", "--delete", "old")


def test_a_healthy_folder_put_here_by_hand_is_not_touched_by_a_look(services: Services, settings: Settings) -> None:
    folder: Path = bare(settings.models_dir / "mine")
    before = sorted(path.name for path in folder.iterdir())
    assert run(services) == 0
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_ready_made_file_is_put_on_the_shelf(
    services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "another disk")

    source = write_tiny(tmp_path / "Own.gguf")
    monkeypatch.setattr(os, "link", refuse)
    assert run(services, "--adopt", str(source), "--name", "mine", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["ready"] == ["Own.gguf"]
    assert f"{bytes_text(source.stat().st_size)} / {bytes_text(source.stat().st_size)}" in said.err
    assert "mine is on the shelf" in said.err
    with pytest.raises(UsageError) as caught:
        run(services, "--export", "mine", "--dtype", "float16", "--name", "other")
    assert caught.value.key == "ggufready.no_export"
    assert run(services) == 0
    assert "mine" in capsys.readouterr().out
