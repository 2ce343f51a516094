"""Engines that will not end, flood their log, answer garbage, hang in mid-reply: nothing waits for them for ever."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from backend.engines import ENGINES, watcher
from backend.engines import process as process_module
from backend.engines.base import ChatMessage, EngineOptions, EngineState, Sampling
from backend.engines.client import Endpoint
from backend.engines.preparing import MOST_STUCK, Preparing
from backend.engines.process import EngineProcess
from backend.engines.supervisor import Supervisor
from backend.engines.watcher import Plan, Watcher
from backend.errors import CriaError, EngineError
from backend.settings import ROOT
from tests.backend.engines.conftest import READY_S, ask, machine, text_of
from tests.backend.engines.stubborn import FLOOD

ECHO = EngineOptions(engine="echo")
Make = Callable[..., Supervisor]


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[Callable[[str], EngineProcess]]:
    made: list[EngineProcess] = []

    def start(how: str) -> EngineProcess:
        made.append(
            EngineProcess("tests.backend.engines.stubborn", [how], model="m", gpus=None, logs=tmp_path / "logs")
        )
        return made[-1]

    yield start
    for one in made:
        one.kill()


def test_one_that_ignores_the_signal_to_end_is_killed(
    stubborn: Callable[[str], EngineProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "TERM_TIMEOUT_S", 0.1)
    process = stubborn("deaf")
    assert process.end()
    assert not psutil.pid_exists(process.pid)


def test_its_children_end_with_it(stubborn: Callable[[str], EngineProcess]) -> None:
    process = stubborn("family")
    child = psutil.Process(process.pid).children()[0]
    assert process.end()
    # A dead child whose parent is gone is collected by the system, which takes its time.
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_flood_without_lines_holds_up_nobody_and_takes_no_memory(
    stubborn: Callable[[str], EngineProcess],
) -> None:
    before = psutil.Process().memory_info().rss
    process = stubborn("flood")  # it says its port when all of it has been read
    end = time.monotonic() + READY_S
    while process.log.tail()[-1:] != ("last words",):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert psutil.Process().memory_info().rss - before < FLOOD / 2
    assert max(map(len, process.log.tail())) <= 2000


def test_one_that_nothing_can_end_is_said(engines: Make, echo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engines()
    engine.load(echo_folder, ECHO)
    pid = engine.wait_ready(READY_S).pid
    monkeypatch.setattr(process_module, "TERM_TIMEOUT_S", 0.05)
    monkeypatch.setattr(process_module, "KILL_TIMEOUT_S", 0.05)
    assert engine._process is not None
    child = engine._process._child
    with monkeypatch.context() as without:
        for name in ("kill", "terminate"):  # as a process in the midst of a system call takes them
            without.setattr(child, name, lambda: None)
        without.setattr(os, "killpg", lambda *_: None)
        os.kill(pid, signal.SIGSTOP)  # nor does it see that its standard input has closed
        engine.unload()
    status = engine.status()
    assert status.state is EngineState.FAILED
    assert status.error is not None
    assert (status.error.key, status.error.params) == ("hard.will_not_end", {"pid": pid})
    child.kill()
    child.wait(10)


# -- what answers on the port


@pytest.fixture
def port() -> Iterator[Callable[[bytes, float], Endpoint]]:
    """Return a maker of ports that answer every connection with fixed bytes, one by one after a pause each."""
    listeners: list[socket.socket] = []

    def make(answer: bytes, pause_s: float = 0.0) -> Endpoint:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        for part in [answer] if not pause_s else [answer[n : n + 1] for n in range(len(answer))]:
                            connection.sendall(part)
                            time.sleep(pause_s)
                        connection.shutdown(socket.SHUT_WR)
                except OSError:
                    if listener.fileno() < 0:
                        return

        threading.Thread(target=serve, daemon=True).start()
        return Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", "key")

    yield make
    for listener in listeners:
        listener.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
HEALTH: dict[str, Any] = {
    "state": "loading", "model": "m", "loaded_bytes": 1, "total_bytes": 2, "error": None, "context": 0,
    "placement": None, "note": None,
}  # fmt: skip


def _health(**changes: Any) -> bytes:
    return HEAD + json.dumps(HEALTH | changes).encode()


def _watcher(endpoint: Endpoint, patience: tuple[float, float] = (0.0, 300.0)) -> tuple[Watcher, list[Any]]:
    given_up: list[Any] = []
    process = SimpleNamespace(
        endpoint=endpoint, death=lambda: None, cpu_s=lambda: 0.0, memory=lambda: 1, pids=lambda: (1,), pid=1,
        log=SimpleNamespace(tail=lambda: ()),
        give_up=lambda *fault: given_up.append(fault),
    )  # fmt: skip
    plan = Plan(1, ROOT, ECHO, ENGINES["echo"], None, machine())
    return Watcher(plan, process, patience), given_up  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"",
        HEAD,
        HEAD + b"{}",
        HEAD + b"[1]",
        HEAD + b"[" * 100_000,
        HEAD + b" " * 3_000_000,
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        _health(state="dancing"),
        _health(loaded_bytes="many"),
        _health(total_bytes=None),
        _health(error={"cria": 1}),
        _health(note=[1, 2]),
    ],
    ids=lambda answer: str(answer[-30:]),
)
def test_whatever_is_no_answer_counts_as_silence(
    port: Callable[..., Endpoint], answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "ANSWER_TIMEOUT_S", 2.0)
    looking, given_up = _watcher(port(answer))
    with looking:
        assert looking.look() is None
    assert given_up == [("engine.hung", 0.0)]


def test_an_answer_that_trickles_is_not_waited_for(
    port: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "ANSWER_TIMEOUT_S", 0.3)
    looking, given_up = _watcher(port(HEAD + b" " * 10_000, 0.02))  # three minutes
    began = time.monotonic()
    with looking:
        assert looking.look() is None
    assert time.monotonic() - began < READY_S
    assert given_up


def test_a_good_answer_is_read_and_an_error_in_it_raised(port: Callable[..., Endpoint]) -> None:
    looking, given_up = _watcher(port(_health()), (60.0, 300.0))
    with looking:
        status = looking.look()
    assert status is not None
    assert (status.state, status.loaded_bytes, given_up) == (EngineState.LOADING, 1, [])
    failed = EngineError("engine.not_numbers").to_json()
    looking, _ = _watcher(port(_health(error=failed)), (60.0, 300.0))
    with looking, pytest.raises(CriaError, match="not a number"):
        looking.look()


# -- hanging in mid-reply


def test_replies_of_a_hung_engine_end_and_the_next_one_answers(
    engines: Make, echo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (echo_folder / "cria.json").write_text('{"echo": {"words_per_s": 20}}')
    monkeypatch.setattr(watcher, "ANSWER_TIMEOUT_S", 0.3)
    engine = engines(hung_after_s=1.0, restart_delays_s=(0.01,))
    engine.load(echo_folder, ECHO)
    pid = engine.wait_ready(READY_S).pid
    ends: dict[int, tuple[str, str]] = {}

    async def one(number: int) -> None:
        text = ""
        try:
            async for piece in engine.chat([ChatMessage("user", "word " * 1000)], Sampling(max_new_tokens=4000)):
                text += piece.text
                if piece.tokens == 5 and number == 0:
                    os.kill(pid, signal.SIGSTOP)
        except EngineError as error:
            ends[number] = (error.key, text)

    async def three() -> None:
        await asyncio.wait_for(asyncio.gather(*map(one, range(3))), READY_S)

    asyncio.run(three())
    assert {key for key, _ in ends.values()} == {"engine.hung"}
    assert len(ends) == 3
    assert ends[0][1].startswith("I am the echo engine")
    assert text_of(ask(engine, "and now")).endswith("and now")  # it waits for the restart
    status = engine.status()
    assert (status.restarts, status.restarted_after and status.restarted_after.key) == (1, "engine.hung")
    assert not psutil.pid_exists(pid)


# -- prompts that are never ready


def test_threads_that_never_come_back_are_noticed() -> None:
    go = threading.Event()

    async def run() -> list[str]:
        preparing, found = Preparing(timeout_s=0.05), []
        assert await preparing.run(lambda: 5) == 5
        for _ in range(MOST_STUCK):
            assert preparing.problem() is None
            with pytest.raises(EngineError) as caught:
                await preparing.run(go.wait)
            found.append(caught.value.key)
        problem = preparing.problem()
        assert problem is not None
        assert (problem.key, problem.params["count"]) == ("hard.stuck_prompts", MOST_STUCK)
        go.set()
        while preparing.problem() is not None:
            await asyncio.sleep(0.01)
        return found

    assert asyncio.run(asyncio.wait_for(run(), READY_S)) == ["engine.prompt_too_slow"] * MOST_STUCK
