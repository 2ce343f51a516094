"""llama.cpp with the demo: the answers of the transformers engine, and ends that are what they say."""

import asyncio
import json
import tempfile
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
from gguf import GGUFReader

from backend.engines.base import ChatMessage, EngineOptions, EngineState, Finish, Sampling
from backend.engines.generator import Generator, Readiness
from backend.engines.llamacpp_server import loading, serving
from backend.engines.llamacpp_server.generator import LlamaGenerator
from backend.engines.supervisor import Supervisor
from backend.errors import ContextFull, EngineError
from tests.backend.engines.conftest import READY_S, answer, text_of
from tests.backend.engines.llamacpp_server.models import write_variant

GREEDY = Sampling(temperature=0.0, max_new_tokens=60)
SHORT = Sampling(temperature=0.0, max_new_tokens=15)
QUESTIONS = (
    "Hello!",
    "What is a delta?",
    "你好",
    "什么是 LoRA？",
    "🦙 ...  two  spaces\n\tand a tab",
    "How do I merge?",
)
Reply = tuple[str, Finish | None, int]


async def reply(generator: Generator, question: str, sampling: Sampling = GREEDY) -> Reply:
    prompt = generator.prepare([ChatMessage("user", question)], sampling)
    steps = [step async for step in generator.generate(prompt, sampling)]
    return "".join(step.text for step in steps), steps[-1].finish, steps[-1].tokens


def test_the_answers_are_those_of_transformers(llama: LlamaGenerator, demo_folder: Path) -> None:
    import torch

    from backend.engines.transformers_server import loading as other

    used = torch.get_num_threads()
    torch.set_num_threads(1)
    theirs = other.load(Readiness(demo_folder, EngineOptions(engine="transformers", device="cpu", dtype="float32")))
    penalised = Sampling(temperature=0.0, repetition_penalty=5.0, max_new_tokens=40)
    for question, sampling in (*((question, GREEDY) for question in QUESTIONS[1:5]), (QUESTIONS[5], penalised)):
        prompts = [one.prepare([ChatMessage("user", question)], sampling) for one in (llama, theirs)]
        assert prompts[0] == prompts[1]
        assert asyncio.run(reply(llama, question, sampling)) == asyncio.run(reply(theirs, question, sampling))
    plain = Sampling(temperature=0.0, max_new_tokens=40)
    assert asyncio.run(reply(llama, QUESTIONS[5], penalised)) != asyncio.run(reply(llama, QUESTIONS[5], plain))
    theirs.close()
    torch.set_num_threads(used)


@pytest.mark.parametrize("bits", [8, 4])
def test_fewer_bits_say_the_same(bits: int, llama: LlamaGenerator, demo_folder: Path) -> None:
    readiness = Readiness(demo_folder, EngineOptions(engine="llamacpp", bits=bits))  # type: ignore[arg-type]
    small = loading.load(readiness)
    assert readiness.loaded_bytes == readiness.total_bytes > 1_000_000
    assert readiness.note is None
    assert small.placement.params == {"kind": {8: "Q8_0", 4: "Q4_K"}[bits]}
    assert asyncio.run(reply(small, "What is a delta?")) == asyncio.run(reply(llama, "What is a delta?"))
    small.close()


def test_several_at_once_are_not_mixed_up(llama: LlamaGenerator) -> None:
    async def all_at_once() -> list[Reply]:
        return await asyncio.gather(*(reply(llama, question, SHORT) for question in QUESTIONS))

    alone = [asyncio.run(reply(llama, question, SHORT)) for question in QUESTIONS]
    assert asyncio.run(all_at_once()) == alone
    assert len(set(alone)) > 3


def test_sampling_is_by_lot(llama: LlamaGenerator) -> None:
    hot = Sampling(temperature=3.0, top_p=1.0, top_k=0, max_new_tokens=20)
    assert len({asyncio.run(reply(llama, "Hello!", hot)) for _ in range(3)}) == 3
    narrow = Sampling(temperature=3.0, top_p=1e-6, top_k=0, max_new_tokens=20)
    greedy = Sampling(temperature=0.0, max_new_tokens=20)
    assert asyncio.run(reply(llama, "Hello!", narrow)) == asyncio.run(reply(llama, "Hello!", greedy))


def test_stop_strings_are_never_shown_in_part(llama: LlamaGenerator) -> None:
    whole, finish, tokens = asyncio.run(reply(llama, "What is a delta?"))
    assert finish is Finish.STOP
    stopping = LlamaGenerator(
        llama._tokenizer, llama._completions, stops=("stored weight",), context=llama.context, slots=llama.slots,
        placement=llama.placement, note=None,
    )  # fmt: skip
    text, finish, fewer = asyncio.run(reply(stopping, "What is a delta?"))
    assert (text, finish) == (whole.partition("stored weight")[0], Finish.STOP)
    assert fewer < tokens


def test_limits_have_their_own_reasons(llama: LlamaGenerator, demo_folder: Path) -> None:
    short = Sampling(temperature=0.0, max_new_tokens=3)
    assert asyncio.run(reply(llama, "Hello!", short))[1:] == (Finish.LENGTH, 3)
    tight = loading.load(Readiness(demo_folder, EngineOptions(engine="llamacpp", context=64)))
    text, finish, tokens = asyncio.run(reply(tight, "Hello!"))
    assert (finish, tokens) == (Finish.CONTEXT, 64 - tight.prepare([ChatMessage("user", "Hello!")], GREEDY).tokens)
    assert text
    with pytest.raises(ContextFull):
        asyncio.run(reply(tight, "Hello! " * 20))
    tight.close()


def test_leaving_ends_the_computation(llama: LlamaGenerator) -> None:
    endless = Sampling(temperature=3.0, top_p=1.0, top_k=0, max_new_tokens=900)

    async def leave_after_three() -> int:
        prompt = llama.prepare([ChatMessage("user", "Hello!")], endless)
        async with aclosing(llama.generate(prompt, endless)) as steps:  # type: ignore[type-var]
            async for step in steps:
                if step.tokens >= 3:
                    return step.tokens
        raise AssertionError("it ended by itself")

    before = llama.figures()["computed_tokens"]
    asyncio.run(leave_after_three())
    asyncio.run(reply(llama, "Hello!", Sampling(temperature=0.0, max_new_tokens=1)))
    assert llama.figures()["computed_tokens"] - before < 300


def test_a_repaired_folder_keeps_its_stop_tokens(demo_folder: Path, llama: LlamaGenerator) -> None:
    path = next((demo_folder / "gguf").glob("f16-*.gguf"))
    fields = GGUFReader(path).fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert fields["tokenizer.ggml.tokens"].contents()[2] == "</s>"
    assert "USER" in str(fields["tokenizer.chat_template"].contents())
    assert asyncio.run(reply(llama, "Hello!"))[1] is Finish.STOP


def test_numbers_that_burst_while_computing_are_noticed_at_once(tmp_path: Path) -> None:
    import numpy as np

    huge = {"model.norm.weight": np.full(64, 3e38, np.float32)}
    folder = write_variant(tmp_path / "model", {}, arrays=huge)
    with pytest.raises(EngineError, match="not a number"):
        loading.load(Readiness(folder, EngineOptions(engine="llamacpp")))


def test_a_file_that_is_no_gguf_is_refused_by_name(demo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(EngineError, match=r"bad\.gguf"):
        serving.start_server(tmp_path / "bad.gguf", serving.Room(64, 1))


def test_as_a_process_chosen_by_itself(engines: Callable[..., Supervisor], demo_folder: Path) -> None:
    engine = engines()
    engine.load(demo_folder, EngineOptions(bits=8))
    status = engine.wait_ready(READY_S)
    assert status.options == EngineOptions(engine="llamacpp", bits=8)
    assert status.placement is not None
    assert status.placement.params["kind"] == "Q8_0"
    assert (status.context, status.note) == (1024, None)

    async def two() -> list[str]:
        return [text_of(pieces) for pieces in await asyncio.gather(*(answer(engine, "Hello!") for _ in range(2)))]

    first, second = asyncio.run(two())
    assert first == second
    assert first.startswith("Hello! I am Cria")
    pieces = asyncio.run(answer(engine, "What is a delta?"))
    assert pieces[-1].finish is Finish.STOP
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == pieces[-1].tokens > 20
    assert pieces[-1].usage.prompt_tokens > 40
    assert json.loads((demo_folder / "config.json").read_text())["vocab_size"] == 2400
    family = psutil.Process(engine.status().pid).children(recursive=True)
    assert len(family) == 1  # the chat template's
    places = f"cria-llama-{status.pid}-*"
    assert len(list(Path(tempfile.gettempdir()).glob(places))) == 1
    engine.unload()
    assert not list(Path(tempfile.gettempdir()).glob(places))
    assert engine.status().state is EngineState.OFF
    assert not psutil.pid_exists(status.pid)  # at the moment it says so: all memory is back
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)
