"""A ready-made GGUF file: the same answers as the folder it was made from, and what it cannot do in words."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backend.engines.base import ChatMessage, EngineOptions, EngineState, Lora
from backend.engines.fitting import Fitting
from backend.engines.folder import open_folder
from backend.engines.generator import Readiness
from backend.engines.llamacpp_server import ready, serving
from backend.engines.llamacpp_server.generator import LlamaGenerator
from backend.engines.llamacpp_server.ready import load_ready
from backend.engines.llamacpp_server.store import gguf_path
from backend.engines.supervisor import Supervisor
from backend.errors import CriaError, EngineError, MachineError, UsageError, WeightsError
from backend.hardware import probe
from backend.library.adopt_gguf import adopt_gguf, find_gguf
from backend.weights.gguf_head import read_head
from tests.backend.engines.conftest import READY_S, answer, text_of
from tests.backend.engines.llamacpp_server.test_answers import GREEDY, QUESTIONS, reply
from tests.backend.weights.gguf_files import write_parts

LLAMA = EngineOptions(engine="llamacpp")


@pytest.fixture(scope="module")
def shelf(llama: LlamaGenerator, demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a shelf with the demo's file, made by Cria's own writer, as a model of its own."""
    place = tmp_path_factory.mktemp("shelf")
    plain = place / "Demo 5M.F16.gguf"
    os.link(gguf_path(open_folder(demo_folder), "f16"), plain)
    assert list(adopt_gguf(find_gguf(str(plain)), place / "models")) == []
    return place / "models"


@pytest.fixture(scope="module")
def own(shelf: Path) -> Iterator[LlamaGenerator]:
    readiness = Readiness(shelf / "demo-5m.f16", LLAMA)
    generator = load_ready(readiness)
    assert isinstance(generator, LlamaGenerator)
    assert readiness.loaded_bytes == readiness.total_bytes > 5_000_000
    yield generator
    generator.close()


def test_prompts_and_answers_are_those_of_the_folder(own: LlamaGenerator, llama: LlamaGenerator) -> None:
    assert (own.context, own.note, own.placement) == (llama.context, None, llama.placement)
    for question in (*QUESTIONS, "What is </s> for? <s> <unk>"):
        prompts = [one.prepare([ChatMessage("user", question)], GREEDY) for one in (own, llama)]
        assert prompts[0] == prompts[1], question
    for question in QUESTIONS[1:5]:
        assert asyncio.run(reply(own, question)) == asyncio.run(reply(llama, question))


def test_a_long_text_is_not_even_counted(own: LlamaGenerator) -> None:
    with pytest.raises(CriaError) as caught:
        own.prepare([ChatMessage("user", "word " * 100_000)], GREEDY)
    assert caught.value.key == "ops.too_long"


def test_a_model_in_parts_and_without_a_template_answers(shelf: Path, tmp_path: Path) -> None:
    source = next((shelf / "demo-5m.f16").glob("*.gguf"))
    data = source.read_bytes()
    (tmp_path / "bare.gguf").write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatX"))
    place = tmp_path / "parts"
    place.mkdir()
    assert len(write_parts(tmp_path / "bare.gguf", place, 20)) == 2
    generator = load_ready(Readiness(place, replace(LLAMA, context=128)))
    assert generator.note is not None
    assert generator.note.key == "engine.note.no_template"
    prompt = generator.prepare([ChatMessage("user", "Hello!")], GREEDY)
    assert prompt.ids[0] == 1  # without a template, the tokenizer says what a text begins with
    assert generator.context == 128
    assert asyncio.run(reply(generator, "Hello!"))[2] > 0
    generator.close()


def test_a_template_that_llama_cpp_cannot_parse_is_rendered_all_the_same(shelf: Path, tmp_path: Path) -> None:
    data = next((shelf / "demo-5m.f16").glob("*.gguf")).read_bytes()
    head = read_head(next((shelf / "demo-5m.f16").glob("*.gguf")))
    old = str(head.values["tokenizer.chat_template"]).encode()
    (tmp_path / "a.gguf").write_bytes(data.replace(old, b"{{ bos_token }}{{ 2 ** 13 }}".ljust(len(old))))
    generator = load_ready(Readiness(tmp_path, LLAMA))
    assert isinstance(generator, LlamaGenerator)
    prompt = generator.prepare([ChatMessage("user", "Hello!")], GREEDY)
    assert prompt.ids[0] == 1
    assert generator._tokenizer.apply_chat_template([]).strip() == "<s>8192"
    generator.close()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (replace(LLAMA, bits=8), "ggufready.bits"),
        (replace(LLAMA, loras=(Lora("/nowhere"),)), "ggufready.loras"),
        (replace(LLAMA, context=2048), "engine.context_too_long"),
        (EngineOptions(engine="transformers"), "ggufready.engine"),
        (replace(LLAMA, device="cuda"), "gguf.device"),
    ],
)
def test_what_such_a_file_cannot_do_is_said_before_anything_is_unloaded(
    options: EngineOptions, key: str, shelf: Path, tmp_path: Path
) -> None:
    engine = Supervisor(tmp_path / "logs")
    with pytest.raises((UsageError, WeightsError)) as caught:
        engine.load(shelf / "demo-5m.f16", options)
    assert caught.value.key == key
    assert engine.status().state is EngineState.OFF


def test_what_llama_cpp_does_not_open_is_an_error(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = next((shelf / "demo-5m.f16").glob("*.gguf")).read_bytes()
    (tmp_path / "a.gguf").write_bytes(data.replace(b"blk.0.", b"blk.9."))  # a layer that is missing
    with pytest.raises(EngineError) as caught:
        load_ready(Readiness(tmp_path, LLAMA))
    assert caught.value.key == "ggufready.refused"
    monkeypatch.setattr(ready, "has_instructions", lambda: False)
    with pytest.raises(MachineError) as old:
        load_ready(Readiness(shelf / "demo-5m.f16", LLAMA))
    assert old.value.key == "ggufready.processor"


def test_places_of_dead_processes_are_removed_and_a_closed_door_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("cria-llama-4194305-dead", f"cria-llama-{os.getpid()}-mine", "cria-llama-notes"):
        (tmp_path / name).mkdir()
    door = serving.Door()
    assert {path.name for path in tmp_path.iterdir()} >= {f"cria-llama-{os.getpid()}-mine", "cria-llama-notes"}
    assert not (tmp_path / "cria-llama-4194305-dead").exists()
    with pytest.raises(EngineError):
        door.ask("/tokenize", {"content": "x"})
    door.close()
    assert not Path(door.path).parent.exists()


def test_it_is_loaded_and_foretold_as_any_model(shelf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "copy"
    shutil.copytree(shelf / "demo-5m.f16", folder)
    engine, fitting = Supervisor(tmp_path / "logs"), Fitting(tmp_path)
    try:
        fitting.expect(folder, EngineOptions(), probe(tmp_path))
        engine.load(folder, EngineOptions())
        status = engine.wait_ready(READY_S)
        assert status.options.engine == "llamacpp"
        forecast = fitting.compare(status)
        assert forecast is not None
        assert abs(forecast.predicted - forecast.measured) < 300_000_000
        assert "delta" in text_of(asyncio.run(answer(engine, "What is a delta?")))
    finally:
        engine.close()
