"""Models that are no Llama, and tokenizers that must be exact, in the engine's own process code."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from backend.engines.base import ChatMessage, EngineOptions, Finish, Sampling
from backend.engines.generator import Generator, Readiness
from backend.engines.transformers_server.exact import ExactTokenizer
from backend.engines.transformers_server.loading import load
from backend.errors import WeightsError
from backend.weights.finish import finish_folder
from backend.weights.opening import open_checkpoint
from backend.weights.writer import save
from tests.backend.weights import make_t5
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf
from tests.backend.weights.test_as_is import write_decoder
from tests.backend.weights.test_tokenizer import PIECES, add_pieces, folder_with, legacy_ids

GREEDY = Sampling(temperature=0.0, max_new_tokens=12)


def finished(source: Path, out: Path) -> Path:
    checkpoint = open_checkpoint(source)
    list(save(checkpoint, out))
    finish_folder(checkpoint, out, sources=[source])
    return out


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    return finished(make_t5.write_t5(folder / "source"), folder / "out")


@pytest.fixture(scope="module")
def t5(t5_folder: Path) -> Iterator[Generator]:
    generator = load(Readiness(t5_folder, EngineOptions(device="cpu")))
    yield generator
    generator.close()


def ask(generator: Generator, question: str, sampling: Sampling = GREEDY) -> tuple[str, int, Finish | None]:
    async def answer() -> tuple[str, int, Finish | None]:
        prompt, text, last = generator.prepare([ChatMessage("user", question)], sampling), "", None
        async for step in generator.generate(prompt, sampling):
            text, last = text + step.text, step
        assert last is not None
        return text, last.tokens, last.finish

    return asyncio.run(answer())


def test_an_encoder_and_decoder_answers_as_in_transformers(t5: Generator, t5_folder: Path) -> None:
    text, tokens, finish = ask(t5, "Hello!")
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(t5_folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello!"}], add_generation_prompt=True,
                                        return_tensors="pt", return_dict=True)  # fmt: skip
    with torch.no_grad():
        wanted = model.generate(**ids, max_new_tokens=12, do_sample=False)[0].tolist()[1:]
    assert tokens == len(wanted)
    assert finish is (Finish.STOP if wanted[-1] == 1 else Finish.LENGTH)
    assert text == tokenizer.decode(wanted, skip_special_tokens=True)


def test_what_it_says_about_itself(t5: Generator) -> None:
    assert (t5.slots, t5.context) == (1, 2048)
    assert t5.note is not None
    assert t5.note.key == "finish.found.one_at_a_time"
    assert ask(t5, "Hello!") == ask(t5, "Hello!")


def test_it_stops_at_its_end_token(t5_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "stops"
    out.mkdir()
    for path in t5_folder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    state = load_file(out / "model.safetensors")
    state["lm_head.weight"] = torch.zeros_like(state["lm_head.weight"])  # all words alike: the first one is taken
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    generation = json.loads((out / "generation_config.json").read_text())
    (out / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": 0}))
    generator = load(Readiness(out, EngineOptions(device="cpu")))
    assert ask(generator, "Hello!") == ("", 1, Finish.STOP)
    generator.close()


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "gemma", "gemma2", "gemma3_text"])
def test_other_decoders_answer(tmp_path: Path, kind: str) -> None:
    write_decoder(tmp_path / "source", kind)
    generator = load(Readiness(finished(tmp_path / "source", tmp_path / "out"), EngineOptions(device="cpu")))
    _, tokens, finish = ask(generator, "Hello!")
    assert tokens == 12 or finish is Finish.STOP
    generator.close()


def test_a_kind_that_it_does_not_run_is_named(tmp_path: Path) -> None:
    write_decoder(tmp_path / "source", "mistral", model_type="unheard-of")
    with pytest.raises(WeightsError) as refused:
        load(Readiness(finished(tmp_path / "source", tmp_path / "out"), EngineOptions(device="cpu")))
    assert refused.value.key == "finish.not_runnable"


def test_a_config_that_transformers_does_not_take(tmp_path: Path) -> None:
    write_decoder(tmp_path / "source", "mistral", rope_parameters=[1], hidden_act=7)
    with pytest.raises(WeightsError):
        load(Readiness(finished(tmp_path / "source", tmp_path / "out"), EngineOptions(device="cpu")))


def test_appended_words_are_cut_exactly(tmp_path: Path) -> None:
    from backend.engines.folder import open_folder
    from backend.engines.transformers_server.tokenizer import load_tokenizer

    words = ("甲", "乙", "丙", "丁", "甲乙", "乙丙", "丙丁", "乙丙丁", "甲乙丙", "丁甲")
    model = add_pieces(tokenizer_model(), *((word, 0.0) for word in words), ("[PAD]", 0.0))
    tiny = Tiny(vocab=PIECES + len(words) + 1)
    source = folder_with(write_hf(tmp_path / "source", tiny, weights(tiny)), model)
    out = finished(source, tmp_path / "out")
    tokenizer = load_tokenizer(open_folder(out))
    assert isinstance(tokenizer._tokenizer, ExactTokenizer)
    library = AutoTokenizer.from_pretrained(out)
    differ = 0
    for text in (
        "丁甲乙丙丁甲乙",
        "乙丙丁甲",
        "甲乙丙丁 丁甲 乙丙",
        "丙丁甲</s>甲乙丙丁 x",
        "[PAD]甲乙丙",
        "",
        "Hello!",
    ):
        wanted = legacy_ids(model, text.removeprefix("[PAD]"))
        wanted[1:1] = [PIECES + len(words)] if "[PAD]" in text else []
        assert tokenizer(text)["input_ids"] == wanted
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == wanted[1:]
        differ += library(text)["input_ids"] != wanted
    assert differ
    (out / "tokenizer.model").write_bytes(tokenizer_model())  # of another vocabulary: tokenizer.json decides
    assert not isinstance(load_tokenizer(open_folder(out)), ExactTokenizer)


def test_a_tensor_that_is_missing_is_refused_and_not_filled_with_noise(tmp_path: Path) -> None:
    write_decoder(tmp_path / "source", "mistral")
    out = finished(tmp_path / "source", tmp_path / "out")
    state = load_file(out / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError) as refused:
        load(Readiness(out, EngineOptions(device="cpu")))
    assert "up_proj" in str(refused.value)
