"""Attached adapters in the transformers engine: the words a merge gives, in one batch, and nobody else's cache."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.engines.adapters import open_loras
from backend.engines.base import EngineOptions, Lora
from backend.engines.generator import Generator, Readiness
from backend.engines.transformers_server import loading
from backend.engines.transformers_server.adapter_batches import Beginnings, keep_apart
from backend.engines.transformers_server.adapters import Step, attach
from backend.engines.transformers_server.one_at_a_time import SingleTokens
from backend.engines.transformers_server.text_generator import TextGenerator
from backend.errors import EngineError
from backend.weights.opening import open_checkpoint
from tests.backend.engines import tiny
from tests.backend.engines.loras import Truth, answers, merge_each, mix, reply, three_adapters, write_adapter

LONG = "a b c " * 30  # several pages of cache
QUESTIONS = ("hello", LONG)
MIXES = ({}, {"ada": 1.0}, {"bob": 0.5}, {"ada": 0.5, "bob": 1.0}, {"ada": -1.0}, {"words": 1.0})


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return adapters by name: of every layer; rank-stabilised and of the last layer; of the word table."""
    return three_adapters(tmp_path_factory.mktemp("adapters"))


def load(folder: Path, *loras: Path, **options: Any) -> Any:
    wanted = {"engine": "transformers", "device": "cpu", "dtype": "float32"} | options
    return loading.load(Readiness(folder, EngineOptions(**wanted, loras=tuple(Lora(str(one)) for one in loras))))


@pytest.fixture(scope="module")
def attached(tiny_folder: Path, adapters: dict[str, Path]) -> Iterator[Generator]:
    """Return the tiny model with all adapters attached, and the prefix cache that everybody shares."""
    generator = load(tiny_folder, *adapters.values())
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def truth(tiny_folder: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return what merged models answer, by mixture and question."""
    folders = merge_each(tiny_folder, tmp_path_factory.mktemp("merged"), adapters, MIXES)
    return answers(folders, QUESTIONS, load)


def test_each_mixture_says_what_its_merge_says(attached: Generator, truth: Truth) -> None:
    """One after the other on one engine: each finds the same beginning computed under another mixture before."""
    for _ in range(2):  # the second time, under its own
        for (number, question), words in truth.items():
            assert asyncio.run(reply(attached, question, mix(**MIXES[number]))) == words, (number, question)


def test_different_adapters_are_one_batch(attached: Any, truth: Truth) -> None:
    async def crowd() -> list[str]:
        return await asyncio.gather(*(reply(attached, question, mix(**MIXES[number])) for number, question in truth))

    before = attached.figures()["steps"]
    assert asyncio.run(crowd()) == list(truth.values())
    steps, tokens = attached.figures()["steps"] - before, len(truth) * mix().max_new_tokens
    assert steps < tokens / 2  # one step makes a token for each of several


def test_one_at_a_time_says_the_same(tiny_folder: Path, adapters: dict[str, Path], attached: Any, truth: Truth) -> None:
    checkpoint, options = open_checkpoint(tiny_folder), EngineOptions(device="cpu", dtype="float32")
    placement = loading.place(loading.need_of(checkpoint, 512), options, loading.look_around())
    model = loading.load_model(checkpoint, options, placement, loading.ReadBytes(Readiness(tiny_folder, options)))
    loras = [Lora(str(one)) for one in adapters.values()]
    batch = attach(model, loras, open_loras(checkpoint, loras), torch.float32)
    single = TextGenerator(
        attached._tokenizer,
        SingleTokens(model, eos=[2], adapters=batch, keeps=True),
        eos=[2],
        stops=(),
        context=512,
        placement=placement.message,
        note=None,
    )
    for (number, question), words in truth.items():
        assert asyncio.run(reply(single, question, mix(**MIXES[number]))) == words, (number, question)


def test_an_eight_bit_base_carries_them(tiny_folder: Path, adapters: dict[str, Path]) -> None:
    generator = load(tiny_folder, adapters["ada"], bits=8, dtype="auto")
    plain = load(tiny_folder, bits=8, dtype="auto")
    base, with_ada = (asyncio.run(reply(generator, "hello", mix(ada=scale))) for scale in (0.0, 1.0))
    assert base == asyncio.run(reply(plain, "hello", mix()))
    assert with_ada != base
    generator.close()
    plain.close()


def test_numbers_that_burst_end_their_own_reply_and_nobody_elses(
    tiny_folder: Path, attached: Generator, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Attention multiplies what it must not see by zero, and zero times infinity is no number."""
    size, random = tiny.shape(), np.random.default_rng(0)
    stem = "base_model.model.model.layers.0"
    large = {
        f"{stem}.mlp.up_proj.lora_A.weight": random.standard_normal((4, size.hidden)).astype(np.float32) * 1e25,
        f"{stem}.mlp.up_proj.lora_B.weight": np.full((size.ffn, 4), 1e15, np.float32),
    }
    burst = write_adapter(tmp_path / "burst", targets=("k_proj",), extra=large)
    loras = (Lora(str(adapters["ada"])), Lora(str(burst), 0.0))  # at full strength, it would not be loaded
    options = EngineOptions(engine="transformers", device="cpu", dtype="float32", loras=loras)
    generator = loading.load(Readiness(tiny_folder, options))
    asked = [("a", {}), ("hello", {"burst": 1.0}), ("b c d " * 12, {}), ("hello", {"ada": 1.0})]

    async def crowd() -> list[str | BaseException]:
        work = (reply(generator, question, mix(**scales)) for question, scales in asked)
        return await asyncio.gather(*work, return_exceptions=True)

    said = asyncio.run(crowd())
    assert isinstance(said[1], EngineError)
    assert said[1].key == "engine.not_numbers"
    wanted = [
        asyncio.run(reply(attached, question, mix(**scales))) for question, scales in asked if "burst" not in scales
    ]
    assert [said[0], *said[2:]] == wanted
    assert asyncio.run(reply(generator, asked[2][0], mix())) == wanted[1]  # nor does it stay in the shared cache
    generator.close()


def test_padding_and_strangers_get_nothing() -> None:
    step = Step([(2, (1.0, 0.0)), (1, (0.0, 0.5))], [(0.0, 0.5)])
    here = torch.device("cpu")
    assert step.columns((0, 1, 1), 4, here, last=False).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5], [0, 0, 0]]
    assert step.columns((1,), 1, here, last=True).tolist() == [[0.5]]
    assert Step([(3, (0.0, 0.0))], []).is_off
    assert step.columns((0,), 3, here, last=False).tolist() == [[1], [1], [0]]
    nobody = Step([(2, (1.0,))], [])  # a part of a prompt: no answer yet
    assert nobody.columns((0,), 1, here, last=True).tolist() == [[0]]


def test_a_reply_that_was_left_ends_with_its_own_strengths(tiny_folder: Path, adapters: dict[str, Path]) -> None:
    """Its thread may be in the midst of a layer when the next reply begins, and what it computed is kept."""
    checkpoint, options = open_checkpoint(tiny_folder), EngineOptions(device="cpu", dtype="float32")
    placement = loading.place(loading.need_of(checkpoint, 512), options, loading.look_around())
    model = loading.load_model(checkpoint, options, placement, loading.ReadBytes(Readiness(tiny_folder, options)))
    loras = [Lora(str(adapters["ada"]))]
    batch = attach(model, loras, open_loras(checkpoint, loras), torch.float32)
    ids = torch.tensor([[5, 6, 7]])

    def scores(scale: float) -> torch.Tensor:
        batch.step = Step([(1, (scale,))], [(scale,)])
        with torch.no_grad():
            return model(ids).logits  # type: ignore[no-any-return]

    with ThreadPoolExecutor(1) as other:
        wanted, base = scores(1.0), scores(0.0)
        assert not torch.equal(wanted, base)
        batch.step = Step([(1, (1.0,))], [(1.0,)])
        assert torch.equal(other.submit(scores, 0.0).result(60), base)
        with torch.no_grad():
            assert torch.equal(model(ids).logits, wanted)


class Allocator:
    """Remembers beginnings as transformers' ledger does: by what it is told, not by what was computed."""

    def __init__(self) -> None:
        self.known: list[list[int]] = []

    def mark_complete_blocks(self, _: str, ids: list[int], complete: int) -> None:
        self.known.append(ids[:complete])


class Cache:
    def __init__(self) -> None:
        self.allocator = Allocator()
        self.cache_allocators = {"all": self.allocator}

    def search_prefix_match(self, _: str, ids: list[int]) -> int:
        return max((len(one) for one in self.allocator.known if ids[: len(one)] == one), default=0)


def test_a_beginning_is_shared_only_under_the_same_strengths() -> None:
    cache = Cache()
    scales = {"base": (0.0, 0.0), "off": (0.0, 0.0), "ada": (1.0, 0.0), "more": (2.0, 0.0), "again": (1.0, 0.0)}
    keep_apart(cache, scales.get)
    ids = [5, 6, 7, 8]
    cache.allocator.mark_complete_blocks("base", ids, 2)
    cache.allocator.mark_complete_blocks("ada", ids, 3)
    found = {name: cache.search_prefix_match(name, ids) for name in (*scales, "gone")}
    assert found == {"base": 2, "off": 2, "ada": 3, "more": 0, "again": 3, "gone": 0}
    assert cache.search_prefix_match("again", [9, 6, 7, 8]) == 0
    cache.allocator.mark_complete_blocks("gone", ids, 4)  # a reply that somebody left while it was computed
    assert cache.search_prefix_match("gone", ids) == 0
    assert ids == [5, 6, 7, 8]


def test_numbers_for_beginnings_are_never_tokens_and_never_twice_the_same() -> None:
    beginnings, seen = Beginnings(), set[int]()
    for first in range(5000):  # more than it remembers
        seen.add(beginnings.marked([first], (1.0,))[0])
    seen.add(beginnings.marked([0], (1.0,))[0])
    assert len(seen) == 5001
    assert all(number < 0 for number in seen)
    assert beginnings.marked([], None) == []
