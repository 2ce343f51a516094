"""The real engine on the CPU: loads, streams, batches, stops, refuses. One process serves most of these tests."""

import asyncio
import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from backend.engines.base import ChatMessage, EngineOptions, Finish, Sampling
from backend.engines.generator import Generator, Readiness, Step
from backend.engines.supervisor import Supervisor
from backend.errors import ContextFull, CriaError, UsageError
from backend.settings import ASSETS
from tests.backend.engines import tiny
from tests.backend.engines.conftest import GREEDY, answer, ask, text_of

LONG = Sampling(temperature=0.0, max_new_tokens=480)


def _stats(engine: Supervisor) -> dict[str, int]:
    process = engine._process
    assert process is not None
    reply = httpx.get(process.endpoint.url + "/stats", headers=process.endpoint.headers, trust_env=False, timeout=30)
    return dict(reply.json())


def _settled(engine: Supervisor) -> int:
    """Wait until nothing computes and nothing more comes, and return how many tokens were computed so far."""
    end = time.monotonic() + 20
    while _stats(engine)["active"] and time.monotonic() < end:
        time.sleep(0.01)
    before = -1
    while (now := _stats(engine)["computed_tokens"]) != before:  # a step under way comes to its end
        assert time.monotonic() < end + 20
        before = now
        time.sleep(0.2)
    return before


def test_it_says_where_it_runs(real: Supervisor) -> None:
    status = real.status()
    assert status.placement is not None
    assert (status.placement.key, status.placement.params) == ("engine.placement.cpu", {"dtype": "float32"})
    assert status.loaded_bytes == status.total_bytes == sum(array.nbytes for array in tiny.weights().values())
    assert status.context == tiny.CONTEXT
    assert status.note is None


def test_greedy_is_the_same_alone_and_in_company(real: Supervisor) -> None:
    async def crowd() -> list[str]:
        questions = ["hello", "你好", "a b c", "hello hello hello world"] * 2
        return [text_of(pieces) for pieces in await asyncio.gather(*(answer(real, q) for q in questions))]

    together = asyncio.run(crowd())
    alone = [text_of(ask(real, q)) for q in ("hello", "你好", "a b c", "hello hello hello world")]
    assert together == alone * 2
    assert len(set(alone)) == 4


def test_the_same_as_ordinary_generation(real: Supervisor, tiny_folder: Path) -> None:
    import torch
    from transformers import PreTrainedTokenizerFast

    from backend.engines.folder import open_folder
    from backend.engines.transformers_server import loading
    from backend.engines.transformers_server.one_at_a_time import SingleTokens
    from backend.engines.transformers_server.text_generator import TextGenerator
    from backend.engines.transformers_server.tokenizer import load_tokenizer

    folder = open_folder(tiny_folder)
    options = EngineOptions(device="cpu")
    placement = loading.place(loading.need_of(folder.checkpoint, 512), options, loading.look_around())
    readiness = Readiness(tiny_folder, options)
    model = loading.load_model(folder.checkpoint, options, placement, loading.ReadBytes(readiness))
    assert readiness.loaded_bytes == folder.checkpoint.nbytes
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer._tokenizer, PreTrainedTokenizerFast)
    generator = TextGenerator(
        tokenizer,
        SingleTokens(model, eos=folder.eos),
        eos=folder.eos,
        stops=(),
        context=512,
        placement=placement.message,
        note=None,
    )

    async def one_at_a_time(sampling: Sampling) -> tuple[str, Finish | None]:
        prompt = generator.prepare([ChatMessage("user", "hello world")], sampling)
        steps = [step async for step in generator.generate(prompt, sampling)]
        return "".join(step.text for step in steps), steps[-1].finish

    for sampling in (GREEDY, Sampling(temperature=0.0, repetition_penalty=1.5, max_new_tokens=40)):
        pieces = ask(real, "hello world", sampling)
        assert asyncio.run(one_at_a_time(sampling)) == (text_of(pieces), pieces[-1].finish)
    torch.manual_seed(0)
    assert asyncio.run(one_at_a_time(Sampling(max_new_tokens=5)))[1] is Finish.LENGTH


def test_sampling_is_by_lot(real: Supervisor) -> None:
    hot = Sampling(temperature=1.5, top_p=1.0, top_k=0, max_new_tokens=40)
    assert len({text_of(ask(real, "hello", hot)) for _ in range(3)}) == 3


def test_usage_and_reasons(real: Supervisor) -> None:
    last = ask(real, "hello world")[-1]
    assert (last.finish, last.tokens) == (Finish.LENGTH, 40)
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (24, 40)
    assert last.usage.decode_s > 0
    last = ask(real, "a" * 400, Sampling(temperature=0.0, max_new_tokens=5000))[-1]
    assert last.finish is Finish.CONTEXT
    assert last.usage is not None
    assert last.usage.prompt_tokens + last.usage.completion_tokens == tiny.CONTEXT


def test_a_conversation_too_long(real: Supervisor) -> None:
    with pytest.raises(ContextFull) as caught:
        ask(real, "x" * 2000)
    assert caught.value.params == {"prompt": 2018, "room": 0, "context": 512}
    with pytest.raises(ContextFull) as caught:
        ask(real, "x" * 200_000)
    assert caught.value.params == {"chars": 200_000, "context": 512}  # not even counted
    with pytest.raises(UsageError, match="empty"):
        ask(real, " ")
    assert text_of(ask(real, "hello"))


@pytest.mark.parametrize("after", [0, 3])
def test_leaving_stops_within_a_token(real: Supervisor, after: int) -> None:
    before = _settled(real)

    async def leave() -> int:
        stream = real.chat([ChatMessage("user", "hello " * 40)], LONG)
        if not after:  # in the prompt
            task = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return 0
        got = [piece async for piece in _first(stream, after)]
        await stream.aclose()
        return got[-1].tokens

    seen = asyncio.run(leave())
    computed = _settled(real) - before
    # What was computed while the hanging up was on its way: a few tokens of a model that makes hundreds a second.
    assert seen <= computed < 200
    assert _stats(real)["cache_used"] < _stats(real)["cache_total"]


async def _first(stream, count):  # type: ignore[no-untyped-def]
    async for piece in stream:
        yield piece
        count -= 1
        if not count:
            return


def test_a_full_house_waits_and_is_served(real: Supervisor) -> None:
    async def crowd() -> list[Finish | None]:
        some = Sampling(temperature=0.8, max_new_tokens=15)
        return [p[-1].finish for p in await asyncio.gather(*(answer(real, f"n {i}", some) for i in range(20)))]

    assert asyncio.run(crowd()) == [Finish.LENGTH] * 20
    assert _settled(real)


def test_more_conversation_than_the_cache_holds_at_once_is_answered_all_the_same(real: Supervisor) -> None:
    async def crowd() -> list[str]:
        return [text_of(p) for p in await asyncio.gather(*(answer(real, "hello " * 20, LONG) for _ in range(4)))]

    assert _stats(real)["cache_total"] < 4 * tiny.CONTEXT
    assert len(set(asyncio.run(crowd()))) == 1


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Generator]]:
    """Return a loader that loads into this very process: torch is imported here anyway, a child would do it again."""
    from backend.engines.transformers_server import loading

    monkeypatch.setattr(loading, "_quiet", lambda: None)  # it changes logging for good
    made: list[Generator] = []

    def make(folder: Path, **options: object) -> Generator:
        made.append(loading.load(Readiness(folder, EngineOptions(device="cpu", **options))))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for generator in made:
        generator.close()


def _steps(generator: Generator, text: str, sampling: Sampling) -> list[Step]:
    async def collect() -> list[Step]:
        prompt = generator.prepare([ChatMessage("user", text)], sampling)
        return [step async for step in generator.generate(prompt, sampling)]

    return asyncio.run(collect())


@pytest.mark.parametrize("bits", [8, 4])
def test_fewer_bits_work_on_a_cpu(load: Callable[..., Generator], tiny_folder: Path, bits: int) -> None:
    generator = load(tiny_folder, bits=bits)
    assert (generator.placement.key, generator.placement.params["bits"]) == ("engine.placement.cpu_bits", bits)
    assert generator.note is not None
    assert generator.slots > 1
    short = Sampling(temperature=0.0, max_new_tokens=8)
    first = _steps(generator, "hello", short)
    assert first[-1].tokens == 8
    assert _steps(generator, "hello", short) == first


def test_stop_strings_no_template_and_a_chosen_context(load: Callable[..., Generator], tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "plain", template=None, stop=["�"])
    generator = load(folder, dtype="bfloat16", context=128)
    assert generator.context == 128
    assert generator.placement.params == {"dtype": "bfloat16"}
    assert generator.note is not None
    assert generator.note.key == "engine.note.no_template"
    stopped = _steps(generator, "hello", GREEDY)
    assert stopped[-1].finish is Finish.STOP
    assert not any("�" in step.text for step in stopped)


def test_weights_that_are_not_numbers_fail_while_loading(load: Callable[..., Generator], tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "nan")
    arrays = tiny.weights()
    arrays["model.norm.weight"][:] = math.nan
    tiny.write_safetensors(folder / "model.safetensors", arrays)
    with pytest.raises(CriaError, match="not a number"):
        load(folder)


@pytest.mark.parametrize(
    ("room", "conversations", "pages"),
    [(10**9, 2, 66), (10**9, 8, 264), (100 * 64 * 1000, 8, 100), (0, 8, 33)],
)
def test_how_much_cache_is_taken(room: int, conversations: int, pages: int) -> None:
    from backend.fit import need

    assert need.pages(2048, room, 1000, conversations=conversations) == pages


def test_a_tokenizer_that_cannot_be_read(tmp_path: Path) -> None:
    from backend.engines.folder import open_folder
    from backend.engines.transformers_server.tokenizer import load_tokenizer

    folder = tiny.write_model(tmp_path / "m")
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(CriaError, match="tokenizer"):
        load_tokenizer(open_folder(folder))


def _demo_tokenizer(folder: Path) -> Any:
    """Return the demo's, from nothing but SentencePiece's files."""
    from backend.engines.folder import ModelFolder, open_folder
    from backend.engines.transformers_server.tokenizer import load_tokenizer

    upload = folder / "upload"
    upload.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(ASSETS / "demo" / "delta" / name, upload)
    opened = open_folder(tiny.write_model(folder / "m"))
    shape = replace(opened.checkpoint.shape, vocab=2400)
    checkpoint = replace(opened.checkpoint, folder=upload, shape=shape)
    return load_tokenizer(ModelFolder(checkpoint, 512, (2,), ()))


def test_prompts_are_not_remembered(tmp_path: Path) -> None:
    """Each would take 8 kB, in every thread anew."""
    tokenizer, process = _demo_tokenizer(tmp_path), psutil.Process()

    def cut(number: int) -> None:
        for turn in range(1500):
            tokenizer(f"{number} {turn}: what is a shard, and why is the sky blue above all of them?")

    cut(0)
    before = process.memory_info().rss
    for number in (1, 2):
        thread = threading.Thread(target=cut, args=(number,))
        thread.start()
        thread.join()
    cut(3)
    assert process.memory_info().rss - before < 4e6


def test_a_lone_sentencepiece_file_with_empty_special_tokens_is_mended(tmp_path: Path) -> None:
    tokenizer = _demo_tokenizer(tmp_path)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    ids = tokenizer("Hello! 你好</s>", add_special_tokens=False)["input_ids"]
    assert ids[-1] == 2
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "Hello! 你好"
    assert tokenizer.chat_template


def test_a_mended_tokenizer_that_fails_blames_the_folder_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.engines.folder import open_folder
    from backend.engines.transformers_server import tokenizer

    folder = tiny.write_model(tmp_path / "m")
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    monkeypatch.setattr(tokenizer, "_mend_tokenizer", lambda _, place: (place / "tokenizer.json").write_text("{}"))
    with pytest.raises(CriaError) as caught:
        tokenizer.load_tokenizer(open_folder(folder))
    assert (caught.value.key, caught.value.params["folder"]) == ("engine.bad_tokenizer", str(folder))


def test_whatever_ends_a_computation_the_reply_hears_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from backend.engines.transformers_server.one_at_a_time import SingleTokens

    class Broken(torch.nn.Module):
        device = "cpu"

        def generate(self, *_: object, **__: object) -> None:
            raise KeyError("inv_freq")

    async def collect() -> None:
        async for _ in SingleTokens(Broken(), eos=()).stream([1], GREEDY, 5):
            pass

    with pytest.raises(CriaError, match="inv_freq"):
        asyncio.run(asyncio.wait_for(collect(), 20))
    assert "KeyError" in capsys.readouterr().err  # for the log


def test_a_long_prompt_is_progress(real: Supervisor) -> None:
    _settled(real)
    before = _stats(real)
    ask(real, "a" * 400, Sampling(temperature=0.0, max_new_tokens=1))
    after = _stats(real)
    assert after["computed_tokens"] - before["computed_tokens"] == 1
    assert after["steps"] - before["steps"] >= 3  # chunks of 128 tokens
