"""The GGUF files beside a model: made once, made again when the folder changes, never half-made."""

import json
import os
from pathlib import Path

import pytest

from backend.engines.folder import open_folder
from backend.engines.llamacpp_server.store import gguf_path, make_gguf
from backend.errors import EngineError, WeightsError
from backend.events import Progress
from backend.library import delete_model, read_model
from backend.locks import try_lock
from tests.backend.engines import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_model(tmp_path / "model", files={"model.safetensors": "0" * 64})


def make(folder: Path, kind: str = "f16") -> tuple[Path, int]:
    """Return the file, and how often something was reported while it was made."""
    seen: list[Progress] = []
    return make_gguf(open_folder(folder), kind, seen.append), len(seen)


def test_it_is_made_once_for_each_kind(folder: Path) -> None:
    path, steps = make(folder)
    assert steps > 5
    assert path.parent == folder / "gguf"
    assert make(folder) == (path, 0)
    other, steps = make(folder, "q8_0")
    assert steps > 5
    assert other.stat().st_size < path.stat().st_size
    assert make(folder) == (path, 0)


def test_it_counts_in_the_models_size_and_goes_with_it(folder: Path) -> None:
    path, _ = make(folder)
    info = read_model(folder)
    assert info.converted >= path.stat().st_size > 0
    assert info.bytes == (folder / "model.safetensors").stat().st_size
    delete_model(folder, in_use=False)
    assert not folder.exists()


@pytest.mark.parametrize("change", ["weights", "hash", "tokenizer", "ends", "config"])
def test_a_changed_folder_is_converted_again(folder: Path, change: str) -> None:
    before, _ = make(folder)
    if change == "weights":
        os.utime(folder / "model.safetensors", ns=(1, 1))
    elif change == "hash":
        (folder / "cria.json").write_text(json.dumps({"files": {"model.safetensors": "1" * 64}}))
    elif change == "tokenizer":
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    elif change == "ends":
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    else:
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace('"rms_norm_eps": 1e-05', '"rms_norm_eps": 1e-06'))
    after, steps = make(folder)
    assert after != before
    assert steps > 5
    assert not before.exists()


def test_what_a_self_test_writes_changes_nothing(folder: Path) -> None:
    before, _ = make(folder)
    record = json.loads((folder / "cria.json").read_text())
    (folder / "cria.json").write_text(json.dumps({**record, "self_test": {"verified": True}}))
    assert make(folder) == (before, 0)


def test_an_interrupted_run_leaves_nothing_that_looks_finished(folder: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_gguf(open_folder(folder), "f16", stop)
    path = gguf_path(open_folder(folder), "f16")
    assert [found.name for found in path.parent.iterdir()] == [".lock"]
    part = path.with_name(path.name + ".part")
    part.write_bytes(b"of a process that was killed")
    make(folder, "q8_0")
    assert not part.exists()
    assert not path.exists()
    part.write_bytes(b"once more")
    assert make(folder, "q8_0")[1] == 0
    assert not part.exists()


def test_other_peoples_files_are_left_alone_and_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    theirs = folder / "gguf" / "model-Q4_K_M.gguf"
    theirs.parent.mkdir()
    theirs.touch()
    make(folder)
    assert theirs.exists()
    other = tiny.write_model(tmp_path / "other")
    (other / "gguf").symlink_to(tmp_path)
    with pytest.raises(WeightsError):
        make(other)


def test_two_do_not_make_the_same_file_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.engines.llamacpp_server.store._PATIENCE_S", 0.05)
    (folder / "gguf").mkdir()
    lock = try_lock(folder / "gguf" / ".lock")
    assert lock is not None
    with pytest.raises(EngineError, match="Another program"):
        make(folder)
    os.close(lock)
    assert make(folder)[1] > 5
