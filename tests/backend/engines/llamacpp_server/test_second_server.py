"""A model on another server, where that is a real one of another make: llama.cpp's own, in a process of its own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from backend.engines.base import ChatMessage, EngineOptions, EngineState, Finish, Sampling
from backend.engines.client import Endpoint
from backend.engines.elsewhere import folder_of
from backend.engines.llamacpp_server.generator import LlamaGenerator
from backend.engines.relay.upstream import list_models
from backend.engines.supervisor import Supervisor
from backend.errors import EngineError
from backend.settings import ROOT
from tests.backend.engines.conftest import READY_S, answer, ask, text_of

KEY = "sk-second"
GREEDY = Sampling(temperature=0.0, max_new_tokens=60)
QUESTION = "What is a delta?"


@pytest.fixture
def second(demo_folder: Path, llama: LlamaGenerator) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start llama.cpp's server with the demo; yield its address and its process."""
    file = next((demo_folder / "gguf").glob("f16-*.gguf"))
    program = [sys.executable, "-m", "tests.backend.engines.llamacpp_server.llamacpp_http", str(file)]
    with subprocess.Popen(
        program, cwd=ROOT, env={**os.environ, "SECOND_KEY": KEY}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout
        yield f"http://127.0.0.1:{int(server.stdout.readline())}", server
        server.kill()


def test_llamacpps_own_server_takes_the_engines_place(
    engines: Callable[..., Supervisor],
    second: tuple[str, subprocess.Popen[bytes]],
    llama: LlamaGenerator,
    tmp_path: Path,
) -> None:
    url, server = second
    with pytest.raises(EngineError) as caught:
        list_models(Endpoint(url, "wrong"))
    assert caught.value.key == "remote.key"
    (tmp_path / "key").write_text(KEY)
    options = EngineOptions(engine="remote", url=url, key_file=str(tmp_path / "key"))
    engine = engines()
    engine.load(folder_of(tmp_path, "", options), options)
    status = engine.wait_ready(READY_S)
    assert (status.model, status.context) == ("second", 1024)

    pieces = ask(engine, QUESTION, GREEDY)
    prompt = llama.prepare([ChatMessage("user", QUESTION)], GREEDY)

    async def own() -> str:
        return "".join([step.text async for step in llama.generate(prompt, GREEDY)])

    # The same model behind the same template; that server leaves the space which SentencePiece begins every text with.
    assert text_of(pieces).removeprefix(" ") == asyncio.run(own())
    assert pieces[-1].finish is Finish.STOP
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.prompt_tokens == prompt.tokens
    assert pieces[-1].usage.completion_tokens > 20
    assert ask(engine, QUESTION, Sampling(temperature=0.0, max_new_tokens=3))[-1].finish is Finish.LENGTH

    with pytest.raises(EngineError) as caught:
        ask(engine, "word " * 5000, GREEDY)
    assert caught.value.key == "remote.refused"
    assert "1024" in str(caught.value)

    endless = Sampling(temperature=3.0, top_p=1.0, top_k=0, max_new_tokens=900)

    async def stopped() -> None:
        async with aclosing(engine.chat([ChatMessage("user", QUESTION)], endless)) as stream:
            async for piece in stream:
                if piece.tokens >= 3:
                    return

    async def both() -> str:
        for _ in range(3):  # more than that server's two places: a place that is not given back would show
            await stopped()
        return text_of(await asyncio.wait_for(answer(engine, QUESTION, GREEDY), READY_S))

    assert asyncio.run(both()) == text_of(pieces)

    server.kill()
    server.wait(READY_S)
    with pytest.raises(EngineError) as caught:
        ask(engine, QUESTION, GREEDY)
    assert caught.value.key == "remote.unreachable"
    assert KEY not in str(caught.value)
    assert engine.status().state is EngineState.READY  # it may be back for the next message
