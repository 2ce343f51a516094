"""Attached adapters in llama.cpp: the words a merge gives, turns for different mixtures, and nobody else's cache."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from backend.engines.adapters import open_loras
from backend.engines.base import ChatMessage, EngineOptions, Lora, Sampling
from backend.engines.generator import Generator, Readiness
from backend.engines.llamacpp_server import loading
from backend.engines.llamacpp_server.adapters import Gate, lora_fields, write_adapters
from backend.engines.llamacpp_server.seats import Seats
from backend.engines.llamacpp_server.sharing import WORTH, Sharing
from backend.errors import EngineError, WeightsError
from backend.weights.gguf_adapter import write_gguf_adapter
from backend.weights.opening import open_checkpoint
from tests.backend.engines.loras import Truth, answers, merge_each, mix, reply, three_adapters, write_adapter

LONG = "a b c " * 30
QUESTIONS = ("hello", LONG)
MIXES = ({}, {"ada": 1.0}, {"bob": 0.5}, {"words": 1.0}, {"ada": 0.5, "bob": 1.0})


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return adapters by name: of every layer; rank-stabilised and of the last layer; of the word table."""
    return three_adapters(tmp_path_factory.mktemp("adapters"))


def load(folder: Path, *loras: Path) -> Generator:
    options = EngineOptions(engine="llamacpp", loras=tuple(Lora(str(one)) for one in loras))
    return loading.load(Readiness(folder, options))


@pytest.fixture(scope="module")
def attached(tiny_folder: Path, adapters: dict[str, Path]) -> Iterator[Generator]:
    """Return the tiny model with all adapters attached."""
    generator = load(tiny_folder, *adapters.values())
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def truth(tiny_folder: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Return what merged models answer, by mixture and question."""
    folders = merge_each(tiny_folder, tmp_path_factory.mktemp("merged"), adapters, MIXES)
    return answers(folders, QUESTIONS, load)


def begun(words: str) -> str:
    """Return the beginning: in float16 a merge rounds otherwise, and a lively model leaves the path in the end."""
    return words[:6]


def test_each_mixture_says_what_its_merge_says(attached: Generator, truth: Truth) -> None:
    said = {}
    assert len({begun(words) for words in truth.values()}) == len(truth)
    for _ in range(2):  # the second time after others, whose cache is of no use
        for number, question in truth:
            words = asyncio.run(reply(attached, question, mix(**MIXES[number])))
            assert begun(words) == begun(truth[number, question]), (number, question)
            assert said.setdefault((number, question), words) == words
    assert sum(said[key] == words for key, words in truth.items()) > len(truth) / 2


def test_together_they_say_what_they_say_alone(attached: Generator) -> None:
    asked = [(question, mix(**scales)) for question in QUESTIONS for scales in MIXES]

    async def crowd() -> list[str]:
        return await asyncio.gather(*(reply(attached, *one) for one in asked))

    assert asyncio.run(crowd()) == [asyncio.run(reply(attached, *one)) for one in asked]


def test_a_long_beginning_is_never_copied_to_another_mixture(attached: Generator) -> None:
    """The same words for everybody: what was computed of them with one mixture is of no use for the next."""
    long = "c b a " * 70
    asked = [(long + end, mix(**scales)) for scales in MIXES[:3] for end in ("a", "b")]

    async def crowd() -> list[str]:
        return await asyncio.gather(*(reply(attached, *one) for one in asked))

    completions = attached._completions  # type: ignore[attr-defined]
    assert attached.prepare([ChatMessage("user", long)], mix()).tokens > 2 * WORTH
    copying = completions._sharing
    together = asyncio.run(crowd())
    assert len({copy.scales for copy in copying._copies._copies}) == 2  # there is no room for a third
    again = [asyncio.run(reply(attached, *one)) for one in reversed(asked)][::-1]
    completions._sharing = Sharing(Seats(attached.slots))
    alone = [asyncio.run(reply(attached, *one)) for one in asked]
    completions._sharing = copying
    assert together == again == alone
    assert len(set(alone)) > 3


def test_numbers_that_burst_end_the_reply_and_leave_no_trace(tiny_folder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    stem = "base_model.model.model.layers.0.mlp.up_proj.lora_"
    large = {
        f"{stem}A.weight": random.standard_normal((4, 64)).astype(np.float32) * 1e4,
        f"{stem}B.weight": np.full((160, 4), 3e4, np.float32),
    }
    burst = write_adapter(tmp_path / "burst", targets=("k_proj",), extra=large)
    generator = load(tiny_folder, burst)
    plain = asyncio.run(reply(generator, LONG, mix()))
    for sampling in (mix(burst=1.0), Sampling(temperature=2.0, loras=(("burst", 1.0),))):
        for _ in range(generator.slots):
            with pytest.raises(EngineError) as caught:
                asyncio.run(reply(generator, "hello", sampling))
            assert caught.value.key == "engine.not_numbers"
    for _ in range(generator.slots + 1):  # in whichever slot
        assert asyncio.run(reply(generator, LONG, mix())) == plain
    generator.close()


def test_the_file_holds_what_the_adapter_holds(tiny_folder: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_folder)
    loras = [Lora(str(adapters[name])) for name in ("bob", "words")]
    opened = open_loras(checkpoint, loras)
    bob, words = (GGUFReader(path) for path in write_adapters(checkpoint, opened, tmp_path))
    assert bob.fields["general.type"].contents() == "adapter"
    assert bob.fields["general.architecture"].contents() == "llama"
    tensors = {one.name: np.asarray(one.data, np.float32) for one in bob.tensors}
    assert sorted(name for name in tensors if name.startswith("output")) == [
        "output.weight.lora_a",
        "output.weight.lora_b",
    ]
    products = {name: (down, up) for name, down, up in opened[0].products()}
    down, up = products["lm_head.weight"]
    found = tensors["output.weight.lora_b"] @ tensors["output.weight.lora_a"]
    assert np.allclose(found, up @ down, atol=2e-3)
    table = {one.name: one.data.shape for one in words.tensors}["token_embd.weight.lora_a"]
    assert table == (checkpoint.shape.vocab, 4)  # a row a word


def test_small_and_large_numbers_survive_float16(tiny_folder: Path, tmp_path: Path) -> None:
    checkpoint, name = open_checkpoint(tiny_folder), "model.layers.0.mlp.up_proj.weight"
    random = np.random.default_rng(0)
    down, up = random.standard_normal((4, 64)) * 3e4, random.standard_normal((160, 4)) * 1e-8
    product = (name, down.astype(np.float32), up.astype(np.float32))
    write_gguf_adapter(checkpoint, [product], tmp_path / "a.gguf")
    first, second = (np.asarray(one.data, np.float32) for one in GGUFReader(tmp_path / "a.gguf").tensors)
    assert np.allclose(second @ first, up @ down, rtol=1e-2, atol=1e-6)
    with pytest.raises(WeightsError, match="too large"):
        write_gguf_adapter(checkpoint, [(name, product[1] * 1e8, product[2] * 1e20)], tmp_path / "b.gguf")
    with pytest.raises(WeightsError, match="no layer"):
        write_gguf_adapter(checkpoint, [("model.layers.9.mlp.up_proj.weight", *product[1:])], tmp_path / "c.gguf")


def test_a_request_without_adapters_has_no_words_about_them() -> None:
    assert lora_fields(()) == {}
    assert lora_fields((0.5, 0.0)) == {"lora": [{"id": 0, "scale": 0.5}, {"id": 1, "scale": 0.0}]}


def test_mixtures_take_turns_and_nobody_is_passed_over() -> None:
    """Whoever asks for what runs now joins in, unless somebody else was there first; who leaves makes room."""

    async def scene() -> list[str]:
        gate, heard, held = Gate(), list[str](), {name: asyncio.Event() for name in "abcde"}

        async def come(name: str, scale: float) -> None:
            async with gate.held((scale,)):
                heard.append(name)
                await held[name].wait()

        tasks = {}
        for name, scale in (("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 1.0), ("e", 2.0)):
            tasks[name] = asyncio.create_task(come(name, scale))
            await asyncio.sleep(0)
        assert heard == ["a", "b"]  # d asks for the same, but after c
        tasks["c"].cancel()
        await asyncio.gather(tasks["c"], return_exceptions=True)
        while len(heard) < 3:  # who stood behind c
            await asyncio.sleep(0)
        assert heard == ["a", "b", "d"]
        for name in "abd":
            held[name].set()
            await tasks[name]
        while len(heard) < 4:
            await asyncio.sleep(0)
        tasks["e"].cancel()
        await asyncio.gather(tasks["e"], return_exceptions=True)
        async with asyncio.timeout(30), gate.held((3.0,)):
            heard.append("last")
        return heard

    assert asyncio.run(scene()) == ["a", "b", "d", "e", "last"]


def test_who_is_cancelled_as_the_turn_comes_leaves_the_gate_open() -> None:
    """A task that is cancelled hears of it one round later; in between, whoever is inside may leave."""

    async def scene() -> None:
        gate, done = Gate(), asyncio.Event()

        async def come(scale: float) -> None:
            async with gate.held((scale,)):
                await done.wait()

        inside, waiting, next_one = (asyncio.create_task(come(scale)) for scale in (1.0, 2.0, 3.0))
        await asyncio.sleep(0)
        inside.cancel()  # its turn to leave comes first
        waiting.cancel()
        done.set()
        ended = await asyncio.gather(inside, waiting, next_one, return_exceptions=True)
        assert [type(one) for one in ended] == [asyncio.CancelledError, asyncio.CancelledError, type(None)]
        async with asyncio.timeout(30), gate.held((4.0,)):
            pass

    asyncio.run(scene())
