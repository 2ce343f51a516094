"""Memory that runs out in a real engine process: the reason, what goes on, and the smaller way that is offered."""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backend.engines import ENGINES
from backend.engines.base import EngineOptions, EngineState
from backend.engines.supervisor import Supervisor
from backend.errors import MachineError
from tests.backend.engines.conftest import READY_S, answer, ask, text_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a limit of addresses that holds is Linux's")
Make = Callable[..., Supervisor]


def _starving(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], module="tests.backend.engines.starved"))


def test_llamacpp_that_gets_no_memory_while_loading_says_so_and_how_it_may_go(
    engines: Make, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _starving(monkeypatch, "llamacpp")
    engine = engines()
    options = EngineOptions(engine="llamacpp", device="cpu")
    engine.load(tiny_folder, options)
    with pytest.raises(MachineError, match="Memory ran out"):
        engine.wait_ready(READY_S)
    status = engine.status()
    assert status.offer == replace(options, bits=8)
    assert any("failed to allocate" in line for line in status.log_tail)
    monkeypatch.undo()
    engine.load(tiny_folder, status.offer)
    assert engine.wait_ready(READY_S).error is None


def test_transformers_ends_the_long_reply_offers_less_and_answers_everybody_else(
    engines: Make, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _starving(monkeypatch, "transformers")
    engine = engines()
    engine.load(tiny_folder, EngineOptions(engine="transformers", device="cpu", dtype="float32"))
    pid = engine.wait_ready(READY_S).pid
    wanted = [text_of(ask(engine, text)) for text in ("hello", "你好", "a b")]

    async def crowd() -> list[object]:
        asked = (answer(engine, text) for text in ("hello", "a b c d " * 25, "你好", "a b"))
        return await asyncio.gather(*asked, return_exceptions=True)

    first, starved, *rest = asyncio.run(crowd())
    assert isinstance(starved, MachineError)
    assert starved.key == "starved.wanted"
    assert [text_of(one) for one in (first, *rest)] == wanted  # type: ignore[arg-type] # else it fails
    end = time.monotonic() + READY_S
    while not (status := engine.status()).short and time.monotonic() < end:
        time.sleep(0.05)
    assert (status.state, status.pid, status.short, status.restarts) == (EngineState.READY, pid, 1, 0)
    assert status.offer is not None
    assert status.offer.bits == 8  # the context is as short already as is worth a try
