"""A person may name the folder around Meta's: the one size in it is meant, and of several none is guessed."""

from pathlib import Path

import pytest

from backend.errors import SourceError
from backend.sources.folder import open_source


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "params.json").write_text("{}")
    (folder / "consolidated.00.pth").write_bytes(b"x" * 10)
    return folder


def test_the_only_size_is_opened_and_keeps_the_name_it_was_asked_by(tmp_path: Path) -> None:
    size = make(tmp_path / "llama" / "7B")
    (tmp_path / "llama" / "tokenizer.model").write_bytes(b"x")
    source = open_source(str(tmp_path / "llama"))
    assert (source.folder, source.spec, source.weight_bytes) == (size, str(tmp_path / "llama"), 10)


def test_of_several_sizes_none_is_guessed(tmp_path: Path) -> None:
    for name in ("7B", "13B"):
        make(tmp_path / name)
    with pytest.raises(SourceError) as refused:
        open_source(str(tmp_path))
    assert refused.value.key == "weights.size_folders"
    assert "13B, 7B" in refused.value.text()


def test_weights_beside_it_come_first_and_an_empty_folder_stays_one(tmp_path: Path) -> None:
    make(tmp_path / "repo" / "original")
    assert open_source(str(tmp_path / "repo")).folder.name == "original"
    (tmp_path / "repo" / "model.safetensors").write_bytes(b"x")
    assert open_source(str(tmp_path / "repo")).folder.name == "repo"
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(SourceError) as refused:
        open_source(str(tmp_path / "empty"))
    assert refused.value.key == "sources.no_weights"
