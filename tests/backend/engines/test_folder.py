"""A folder is checked before anything is loaded; what it says about itself is bounded."""

import json
from pathlib import Path

import pytest

from backend.engines.folder import open_folder, wanted_context
from backend.errors import UsageError, WeightsError
from tests.backend.engines import tiny


def test_a_good_folder(tmp_path: Path) -> None:
    folder = open_folder(tiny.write_model(tmp_path / "m", stop=["###", "", 5, "x" * 1000], context=256))
    assert folder.context == 256
    assert folder.eos == (2,)
    assert folder.stops == ("###",)
    assert folder.checkpoint.nbytes == sum(array.nbytes for array in tiny.weights().values())
    assert folder.path.name == "m"


def test_absurd_records_are_ignored(tmp_path: Path) -> None:
    path = tiny.write_model(tmp_path / "m", stop="###", context=10**9)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [-1, True, 10**9]}))
    folder = open_folder(path)
    assert (folder.context, folder.eos, folder.stops) == (tiny.CONTEXT, (2,), ())


def test_a_broken_record_is_ignored(tmp_path: Path) -> None:
    path = tiny.write_model(tmp_path / "m")
    (path / "cria.json").write_text("{nonsense")
    assert open_folder(path).context == tiny.CONTEXT


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no model folder"):
        open_folder(tmp_path / "nowhere")


def test_no_weights(tmp_path: Path) -> None:
    path = tiny.write_model(tmp_path / "m")
    (path / "model.safetensors").unlink()
    with pytest.raises(WeightsError):
        open_folder(path)


def test_no_tokenizer(tmp_path: Path) -> None:
    path = tiny.write_model(tmp_path / "m")
    (path / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="no tokenizer"):
        open_folder(path)


def test_a_missing_tensor_is_refused_and_not_filled_with_noise(tmp_path: Path) -> None:
    path = tiny.write_model(tmp_path / "m")
    arrays = tiny.weights()
    del arrays["model.layers.1.mlp.up_proj.weight"]
    tiny.write_safetensors(path / "model.safetensors", arrays)
    with pytest.raises(WeightsError, match="up_proj"):
        open_folder(path)


def test_a_longer_context_than_the_model_has(tmp_path: Path) -> None:
    folder = open_folder(tiny.write_model(tmp_path / "m"))
    assert wanted_context(folder, 0) == tiny.CONTEXT
    assert wanted_context(folder, 100) == 100
    with pytest.raises(UsageError, match="512"):
        wanted_context(folder, 513)
