"""Renaming and deleting: safe names, nothing overwritten, links leave what they point to."""

import os
from pathlib import Path

import pytest

from backend.errors import JobError, UsageError
from backend.library import changes
from backend.library.changes import changing, delete_model, drop_converted, rename_model


def folder(tmp_path: Path, name: str = "demo") -> Path:
    made = tmp_path / name
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"x")
    return made


def test_a_model_gets_another_name(tmp_path: Path) -> None:
    assert rename_model(folder(tmp_path, os.fsdecode(b"bad\xff")), "good") == tmp_path / "good"
    assert (tmp_path / "good" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", "a b", ".hidden", "a\0b", "x" * 65, "你好"])
def test_a_name_that_cannot_be_a_models_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        rename_model(folder(tmp_path), name)
    assert (tmp_path / "demo").is_dir()


def test_a_name_that_is_taken_is_refused_also_by_a_link_to_nowhere(tmp_path: Path) -> None:
    mine = folder(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "lost", "demo"):
        with pytest.raises(UsageError) as caught:
            rename_model(mine, name)
        assert caught.value.key == "models.name_taken"


def test_deleting_a_link_leaves_the_folder_and_what_a_kill_left_goes(tmp_path: Path) -> None:
    real = folder(tmp_path, "real")
    link = tmp_path / "link"
    link.symlink_to(real)
    (tmp_path / ".deleted-old").mkdir()
    delete_model(link, in_use=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shelf.lock", "real"]
    assert (real / "model.safetensors").is_file()


def test_two_who_change_the_shelf_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_PATIENCE_S", 0.0)
    mine = folder(tmp_path)
    with changing(tmp_path), pytest.raises(JobError) as caught:
        rename_model(mine, "other")
    assert caught.value.key == "models.shelf_busy"
    assert rename_model(mine, "other").is_dir()


def test_what_engines_made_goes_and_the_model_stays(tmp_path: Path) -> None:
    made = folder(tmp_path)
    for name in ("gguf", "quantised"):
        (made / name).mkdir()
        (made / name / "x").write_bytes(b"y" * 5000)
    assert drop_converted(made) >= 10_000
    assert [path.name for path in made.iterdir()] == ["model.safetensors"]
    assert drop_converted(made) == 0


def test_a_link_in_its_place_is_left_alone(tmp_path: Path) -> None:
    made, elsewhere = folder(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (made / "gguf").symlink_to(elsewhere)
    assert drop_converted(made) == 0
    assert (elsewhere / "precious").is_file()
