"""A ready-made GGUF from anywhere on the shelf: linked where it can be, copied where it must be, never half there."""

import os
from pathlib import Path

import pytest

from backend.errors import CriaError, JobError, MachineError, UsageError
from backend.library import adopt_gguf as adopting
from backend.library import find_model, read_model, read_models
from backend.library.adopt_gguf import adopt_gguf, find_gguf
from backend.library.examine import examine
from backend.locks import try_lock
from tests.backend.weights.gguf_files import write_parts, write_tiny


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "downloads").mkdir()
    return write_tiny(tmp_path / "downloads" / "Some Model-7B.Q8_0.gguf")


def test_a_file_gets_a_second_name_and_is_listed_with_what_it_says(source: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    assert list(adopt_gguf(find_gguf(str(source)), models)) == []
    (info,) = read_models(models)
    assert (info.name, info.problem, info.kind, info.dtype) == ("some-model-7b.q8_0", None, "llama", "Q8_0")
    assert (info.context, info.bytes, info.ready) == (512, source.stat().st_size, (source.name,))
    assert (info.folder / source.name).samefile(source)
    found = examine(info.folder)
    assert (found.parameters, found.dtype, found.template, found.faults) == (384, "Q8_0", "kept", ())
    assert [path.name for path in models.iterdir() if path.is_dir()] == [info.name]


def test_a_file_on_another_disk_is_copied_or_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    models = tmp_path / "models"
    with pytest.raises(UsageError) as caught:
        list(adopt_gguf(find_gguf(str(source), "mine"), models, may_copy=False))
    assert caught.value.key == "ggufready.other_disk"
    assert read_models(models) == ()
    seen = list(adopt_gguf(find_gguf(str(source), "mine"), models))
    assert seen[-1].done == seen[-1].total == source.stat().st_size
    assert (models / "mine" / source.name).read_bytes() == source.read_bytes()
    monkeypatch.setattr(adopting, "free_bytes", lambda _: 1000)
    with pytest.raises(MachineError) as full:
        list(adopt_gguf(find_gguf(str(source), "other"), models))
    assert full.value.key == "ggufready.no_disk"
    assert not [path.name for path in models.iterdir() if path.name.startswith(".adopting-")]


def test_parts_come_together_and_a_hub_cache_is_followed(source: Path, tmp_path: Path) -> None:
    place = tmp_path / "parts"
    place.mkdir()
    first, second = write_parts(source, place, 1)
    write_tiny(place / "another.gguf")
    blob = tmp_path / "0123abcd"
    second.rename(blob)
    second.symlink_to(blob)
    adoption = find_gguf(str(first))
    assert (tuple(adoption.files), adoption.name) == ((first.name, second.name), "model")
    list(adopt_gguf(adoption, tmp_path / "models"))
    assert (tmp_path / "models" / "model" / second.name).samefile(blob)
    assert not (tmp_path / "models" / "model" / second.name).is_symlink()
    with pytest.raises(CriaError) as caught:
        find_gguf(str(place))
    assert caught.value.key == "ggufready.several"


@pytest.mark.parametrize("given", ["", "nowhere.gguf", "notes.txt", "a\0b", "x" * 5000])
def test_what_is_no_file_is_said(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CriaError) as caught:
        find_gguf(given)
    assert caught.value.key in {"ggufready.no_file", "ggufready.none"}


def test_a_damaged_file_or_a_bad_name_is_not_taken(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        find_gguf(str(source), "../up")
    source.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(CriaError) as caught:
        find_gguf(str(source))
    assert caught.value.key == "weights.truncated"


def test_a_taken_name_and_somebody_at_work_are_said(source: Path, tmp_path: Path) -> None:
    models, adoption = tmp_path / "models", find_gguf(str(source), "mine")
    (models / ".adopting-left").mkdir(parents=True)
    list(adopt_gguf(adoption, models))
    assert not (models / ".adopting-left").exists()
    with pytest.raises(UsageError) as taken:
        list(adopt_gguf(adoption, models))
    assert taken.value.key == "models.name_taken"
    handle = try_lock(models / ".adopting.lock")
    assert handle is not None
    with pytest.raises(JobError):
        list(adopt_gguf(find_gguf(str(source), "late"), models))
    os.close(handle)


def test_a_file_can_be_named_itself_where_it_is_alone(source: Path, tmp_path: Path) -> None:
    assert find_model(tmp_path / "models", str(source)) == source.parent
    write_tiny(source.with_name("other.gguf"))
    with pytest.raises(UsageError) as caught:
        find_model(tmp_path / "models", str(source))
    assert caught.value.key == "ggufready.shelf"
    assert read_model(source.parent).problem == "ggufready.shelf"
    alone = tmp_path / "with-weights"
    alone.mkdir()
    (alone / "model.safetensors").write_bytes(b"x")
    write_tiny(alone / "copy.gguf")
    with pytest.raises(UsageError):
        find_model(tmp_path / "models", str(alone / "copy.gguf"))
