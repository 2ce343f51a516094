"""On a real NVIDIA GPU: what a CPU cannot show. Skipped where there is none; ``tests.bench.bench_gpu`` measures."""

import asyncio
from pathlib import Path

import pytest
import torch

from backend.engines.base import ChatMessage, EngineOptions, Sampling
from backend.engines.generator import Generator, Readiness
from backend.engines.transformers_server import loading
from tests.backend.engines import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

GREEDY = Sampling(temperature=0.0, max_new_tokens=40)
CPU = EngineOptions("transformers", "cpu", dtype="float32")
GPU = EngineOptions("transformers", "cuda", dtype="float32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_model(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def _no_logging_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_quiet", lambda: None)


def said(generator: Generator, *texts: str) -> list[str]:
    async def one(text: str) -> str:
        prompt = generator.prepare([ChatMessage("user", text)], GREEDY)
        return "".join([step.text async for step in generator.generate(prompt, GREEDY)])

    async def crowd() -> list[str]:
        return list(await asyncio.gather(*(one(text) for text in texts)))

    try:
        return asyncio.run(crowd())
    finally:
        generator.close()


def test_it_answers_as_a_cpu_does(folder: Path) -> None:
    texts = [f"hello {number}" for number in range(16)]
    assert said(loading.load(Readiness(folder, GPU)), *texts) == said(loading.load(Readiness(folder, CPU)), *texts)


@pytest.mark.parametrize("bits", [8, 4])
def test_kept_weights_answer_as_freshly_quantised_ones_do(folder: Path, bits: int) -> None:
    options = EngineOptions("transformers", "cuda", bits=bits, keep_quantised=True)  # type: ignore[arg-type]
    first = said(loading.load(Readiness(folder, options)), "hello")
    assert list((folder / "quantised").glob("*.safetensors"))
    assert said(loading.load(Readiness(folder, options)), "hello") == first


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_the_cache_is_taken_on_the_gpu_that_was_chosen(folder: Path) -> None:
    """The library asks the current GPU for free memory: a full first card must not keep a model off the second."""
    free, _ = torch.cuda.mem_get_info(0)
    hog = torch.empty(free - (300 << 20), dtype=torch.uint8, device="cuda:0")
    generator = loading.load(Readiness(folder, GPU))
    assert generator.placement.params["index"] == 1
    assert said(generator, "hello")
    del hog
