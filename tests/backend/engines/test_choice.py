"""Which engine computes when nobody chose one, and what is said about it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.engines import choice
from backend.engines.base import EngineOptions
from backend.engines.choice import choose_engine, has_instructions
from backend.engines.supervisor import Supervisor
from backend.text import Message
from tests.backend.engines import tiny
from tests.backend.engines.conftest import READY_S, machine

GB = 10**9
NONE, ONE, APPLE = machine(), machine(24 * GB), machine(mps=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(choice, "has_instructions", lambda: True)
    return tiny.write_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("options", "hardware", "engine"),
    [
        (EngineOptions(), NONE, "llamacpp"),
        (EngineOptions(bits=8), NONE, "llamacpp"),
        (EngineOptions(bits=4, device="cpu"), ONE, "llamacpp"),
        (EngineOptions(dtype="float16", context=200), NONE, "llamacpp"),
        (EngineOptions(), ONE, "transformers"),
        (EngineOptions(), APPLE, "transformers"),
        (EngineOptions(device="cuda"), NONE, "transformers"),
        (EngineOptions(num_gpus=1), NONE, "transformers"),
        (EngineOptions(dtype="float32"), NONE, "transformers"),
        (EngineOptions(engine="transformers"), NONE, "transformers"),
        (EngineOptions(engine="llamacpp"), ONE, "llamacpp"),
        (EngineOptions(engine="echo"), NONE, "echo"),
    ],
)
def test_the_engine(options: EngineOptions, hardware: Any, engine: str, folder: Path) -> None:
    chosen, why = choose_engine(options, hardware, folder)
    assert chosen.engine == engine
    assert (chosen.bits, chosen.context) == (options.bits, options.context)
    assert why is None


@pytest.mark.parametrize("hardware", [NONE, ONE, APPLE])
def test_a_ready_made_gguf_is_llama_cpps_alone(hardware: Any, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert choose_engine(EngineOptions(), hardware, tmp_path)[0].engine == "llamacpp"
    assert choose_engine(EngineOptions(engine="transformers"), hardware, tmp_path)[0].engine == "transformers"


def test_a_folder_that_is_none_is_left_to_the_usual_engine_to_refuse(tmp_path: Path) -> None:
    assert choose_engine(EngineOptions(), NONE, tmp_path / "nowhere")[0].engine == "transformers"


@pytest.mark.parametrize("reason", ["missing", "processor", "rope", "ends", "writable", "room"])
def test_why_not_is_said(reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason == "missing":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "xllamacpp" else name)
    elif reason == "processor":
        monkeypatch.setattr(choice, "has_instructions", lambda: False)
    elif reason == "rope":
        config = json.loads((folder / "config.json").read_text())
        config["rope_scaling"] = {"type": "dynamic", "factor": 2.0}
        (folder / "config.json").write_text(json.dumps(config))
    elif reason == "ends":
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3, 4, 5]}))
    elif reason == "writable":
        monkeypatch.setattr("os.access", lambda path, mode: False)
    else:
        monkeypatch.setattr(choice, "free_bytes", lambda place: GB)
    chosen, why = choose_engine(EngineOptions(), NONE, folder)
    assert chosen.engine == "transformers"
    assert why is not None
    assert why.key == f"gguf.instead.{reason}"


def test_a_file_that_is_there_needs_no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "free_bytes", lambda place: 0)
    (folder / "gguf").mkdir()
    (folder / "gguf" / "q8_0-0123.gguf").touch()
    assert choose_engine(EngineOptions(bits=8), NONE, folder)[0].engine == "llamacpp"
    assert choose_engine(EngineOptions(bits=4), NONE, folder)[0].engine == "transformers"


def test_the_reason_is_shown_with_the_loaded_model(
    engines: Callable[..., Supervisor], echo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = (EngineOptions(engine="echo"), Message("gguf.instead.rope"))
    monkeypatch.setattr("backend.engines.admission.choose_engine", lambda *asked: chosen)
    engine = engines()
    engine.load(echo_folder, EngineOptions())
    status = engine.wait_ready(READY_S)
    assert (status.options, status.note) == chosen


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("model name : x\nflags\t\t: fpu avx avx2 fma f16c bmi2 sse\n", True),
        ("flags\t\t: fpu avx fma f16c bmi2\n", False),
        ("Features\t: fp asimd\n", True),
    ],
)
def test_processors(text: str, good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(choice, "_CPUINFO", tmp_path / "cpuinfo")
    assert has_instructions.__wrapped__() is good
