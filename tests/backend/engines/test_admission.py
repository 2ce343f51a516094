"""What a load is refused for before anything is unloaded, and which of two reasons is given."""

from pathlib import Path

import pytest

from backend.engines import choice
from backend.engines.admission import admit
from backend.engines.base import EngineOptions
from backend.engines.options import MAX_CONTEXT
from backend.errors import UsageError, WeightsError
from tests.backend.engines import tiny
from tests.backend.engines.conftest import machine

NONE = machine()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(choice, "has_instructions", lambda: True)
    return tiny.write_model(tmp_path / "model")


def test_what_can_be_loaded_is_admitted_with_its_engine_and_its_bytes(folder: Path) -> None:
    options, why, total = admit(folder, EngineOptions(context=tiny.CONTEXT), NONE)
    assert (options.engine, why) == ("llamacpp", None)
    assert 0 < total < (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("context", [tiny.CONTEXT + 1, MAX_CONTEXT, MAX_CONTEXT + 1, 999_999_999])
def test_a_context_that_is_too_long_is_told_what_the_model_was_made_for(folder: Path, context: int) -> None:
    with pytest.raises(UsageError) as caught:
        admit(folder, EngineOptions(context=context), NONE)
    assert caught.value.key == "engine.context_too_long"
    assert caught.value.params == {"asked": context, "most": tiny.CONTEXT}


def test_without_a_model_any_context_is_too_long_at_some_point(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        admit(tmp_path, EngineOptions("echo", context=MAX_CONTEXT + 1), NONE)
    assert caught.value.key == "engine.context_range"


def test_a_file_that_was_cut_off_is_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(WeightsError):
        admit(folder, EngineOptions(), NONE)
