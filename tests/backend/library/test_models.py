"""The shelf: what is listed, what is refused and why, and a deletion that leaves nothing half-done."""

import json
from pathlib import Path

import pytest

from backend.errors import UsageError
from backend.library import delete_model, find_folder, find_model, read_model, read_models


def model(folder: Path, **record: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"torch_dtype": "float16", "max_position_embeddings": 2048}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    if record:
        (folder / "cria.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_a_made_model_is_described_by_its_record(tmp_path: Path) -> None:
    folder = model(tmp_path / "demo", parameters=7, dtype="F16", context=1024, template="vicuna-v1.1", recipe="demo",
                   self_test={"stops": True}, questions=[["en", "What is a delta?"]])  # fmt: skip
    info = read_model(folder)
    assert (info.bytes, info.parameters, info.context, info.template) == (100, 7, 1024, "vicuna-v1.1")
    assert info.stops is True
    assert info.questions == (("en", "What is a delta?"),)


def test_a_folder_dropped_in_by_hand_is_listed_as_untried(tmp_path: Path) -> None:
    info = read_model(model(tmp_path / "mine"))
    assert info.problem is None
    assert info.stops is None
    assert info.context == 2048
    stretched = {"max_position_embeddings": 4096, "max_sequence_length": 16384}
    (tmp_path / "mine" / "config.json").write_text(json.dumps(stretched), encoding="utf-8")
    assert read_model(tmp_path / "mine").context == 16384


def test_a_model_in_metas_layout_is_for_other_programs_and_can_be_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "consolidated.00.pth").write_bytes(b"x" * 100)
    (folder / "cria.json").write_text('{"layout": "meta"}', encoding="utf-8")
    info = read_model(folder)
    assert (info.problem, info.bytes) == ("library.meta_layout", 100)
    with pytest.raises(UsageError):
        find_model(tmp_path, "exported")
    delete_model(find_folder(tmp_path, "exported"), in_use=False)
    assert not folder.exists()


def test_unfinished_and_stray_things_are_not_listed(tmp_path: Path) -> None:
    model(tmp_path / "demo")
    model(tmp_path / ".partial-job")
    (tmp_path / "file.txt").write_bytes(b"")
    assert [info.name for info in read_models(tmp_path)] == ["demo"]
    assert read_models(tmp_path / "nowhere") == ()


@pytest.mark.parametrize(
    ("files", "key"),
    [
        (["consolidated.00.pth"], "library.raw"),
        (["consolidated.00.pth", "config.json"], "library.raw"),
        (["adapter_config.json", "adapter_model.bin"], "library.adapter"),
        (["model.safetensors"], "library.no_config"),
        (["model.Q4_K_M.gguf", "model.Q8_0.gguf"], "ggufready.shelf"),
        (["config.json"], "library.no_weights"),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_why(tmp_path: Path, files: list[str], key: str) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in files:
        (folder / name).write_text('{"a": 1}', encoding="utf-8")
    assert read_model(folder).problem == key
    with pytest.raises(UsageError) as caught:
        find_model(tmp_path, "odd")
    assert caught.value.hint is not None


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "x" * 300, "/" + "y" * 5000, "a\0b/c"])
def test_a_name_that_cannot_be_is_unknown(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        find_model(tmp_path, name)


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "[]",
        "not json",
        "[" * 100_000,
        '{"self_test": {"stops": "yes"}}',
        '{"questions": [1, ["a"]], "parameters": "many"}',
    ],
)
def test_a_damaged_record_does_not_hide_the_model(tmp_path: Path, junk: str) -> None:
    folder = model(tmp_path / "demo")
    (folder / "cria.json").write_text(junk, encoding="utf-8")
    info = read_model(folder)
    assert info.parameters is None
    assert info.questions == ()


def test_an_unknown_model_lists_the_known_ones(tmp_path: Path) -> None:
    model(tmp_path / "demo")
    with pytest.raises(UsageError, match="demo"):
        find_model(tmp_path, "../etc")


def test_a_model_elsewhere_is_found_by_path(tmp_path: Path) -> None:
    folder = model(tmp_path / "elsewhere" / "mine")
    assert find_model(tmp_path / "models", str(folder)) == folder


def test_a_deleted_model_is_gone(tmp_path: Path) -> None:
    folder = model(tmp_path / "demo")
    delete_model(folder, in_use=False)
    assert [path.name for path in tmp_path.iterdir()] == [".shelf.lock"]


def test_a_loaded_model_is_not_deleted(tmp_path: Path) -> None:
    folder = model(tmp_path / "demo")
    with pytest.raises(UsageError, match="demo"):
        delete_model(folder, in_use=True)
    assert folder.is_dir()
