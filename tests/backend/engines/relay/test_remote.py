"""A model on another server: against Cria's own gateway in a process of its own, and against servers that misbehave."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backend.engines.base import ChatMessage, EngineOptions, EngineState, Finish, Sampling
from backend.engines.client import Endpoint
from backend.engines.elsewhere import folder_of, keyed
from backend.engines.relay.upstream import Offered, Upstream, choose_model, list_models
from backend.engines.supervisor import Supervisor
from backend.errors import CriaError, EngineError
from backend.settings import ROOT
from backend.text import Message
from tests.backend.engines.conftest import READY_S, ask, text_of

KEY = "sk-very-secret"


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start another Cria with the echo engine and a key, in a process of its own; yield its address."""
    program = [sys.executable, "-m", "tests.backend.engines.relay.second_server"]
    with subprocess.Popen(
        [*program, str(tmp_path_factory.mktemp("second")), KEY], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin
        assert server.stdout
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    file = tmp_path / "key"
    file.write_text(KEY)
    return str(file)


def test_another_server_takes_the_engines_place(
    engines: Callable[..., Supervisor], second: str, key_file: str, tmp_path: Path
) -> None:
    engine = engines()
    options = EngineOptions(engine="remote", url=f"{second}/v1/", key_file=key_file)
    engine.load(folder_of(tmp_path, "", options), options)
    status = engine.wait_ready(READY_S)
    assert status.model == "parrot"
    assert status.placement == Message("remote.placement", {"host": second.removeprefix("http://")})
    pieces = ask(engine, "good day")
    assert text_of(pieces).endswith("good day")
    assert pieces[-1].finish is Finish.STOP
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.prompt_tokens == 2
    assert ask(engine, "one two three", Sampling(max_new_tokens=4))[-1].finish is Finish.LENGTH

    async def stopped() -> None:
        long = [ChatMessage("user", "word " * 500)]
        async with aclosing(engine.chat(long, Sampling(max_new_tokens=4000))) as stream:
            async for piece in stream:
                if piece.tokens >= 3:
                    return

    asyncio.run(stopped())
    end = time.monotonic() + READY_S
    while engine.status().active:
        assert time.monotonic() < end
        time.sleep(0.02)
    with pytest.raises(CriaError) as caught:
        ask(engine, "w " * 5000)
    assert "5000" in str(caught.value) or "too long" in str(caught.value)
    for log in (tmp_path / "logs").iterdir():
        assert KEY not in log.read_text()
    cmdline = Path(f"/proc/{status.pid}/cmdline").read_bytes() + Path(f"/proc/{status.pid}/environ").read_bytes()
    assert KEY.encode() not in cmdline


def test_its_list_of_models_and_its_refusals(second: str, key_file: str) -> None:
    assert [one.name for one in list_models(Endpoint(second, KEY))] == ["parrot"]
    with pytest.raises(EngineError) as caught:
        list_models(Endpoint(second, "wrong-key"))
    assert caught.value.key == "remote.key"
    assert "wrong-key" not in str(caught.value)


def test_the_key_goes_to_its_own_server_and_to_no_other(key_file: str) -> None:
    own = EngineOptions(engine="remote", url="http://box:8000/v1", key_file=key_file)
    assert keyed(EngineOptions(engine="remote", url="http://box:8000"), own).key_file == key_file
    assert keyed(EngineOptions(engine="remote", url="http://evil:8000"), own).key_file == ""
    assert keyed(EngineOptions(), own).key_file == ""


def test_a_model_is_chosen_by_name_or_is_the_first() -> None:
    offered = (Offered("a", 1), Offered("b"))
    assert choose_model(offered, "", "h") == Offered("a", 1)
    assert choose_model(offered, "b", "h") == Offered("b")
    for some, key in ((offered, "remote.not_there"), ((), "remote.nothing_loaded")):
        with pytest.raises(EngineError) as caught:
            choose_model(some, "c", "h")
        assert caught.value.key == key


class _Scripted(BaseHTTPRequestHandler):
    """Answers every request with the status and the body of its server."""

    def log_message(self, *_: Any) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        status, body = self.server.script  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()


@pytest.fixture
def scripted() -> Iterator[Callable[[int, bytes], str]]:
    """Return a maker of servers with one answer."""
    made: list[ThreadingHTTPServer] = []

    def make(status: int, body: bytes) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Scripted)
        server.script = (status, body)  # type: ignore[attr-defined]
        made.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield make
    for server in made:
        server.shutdown()
        server.server_close()


Make = Callable[[int, bytes], str]


@pytest.mark.parametrize(
    ("status", "body", "key"),
    [
        (401, b"{}", "remote.key"),
        (403, b"", "remote.key"),
        (404, b"<html>", "remote.not_openai"),
        (301, b"", "remote.not_openai"),
        (429, b"", "remote.busy"),
        (200, b"<html>", "remote.not_openai"),
        (200, b'{"data": 3}', "remote.not_openai"),
        (200, b'{"data": [{"name": 1}]}', "remote.not_openai"),
        (200, b"[" * 100_000, "remote.not_openai"),
        (200, b" " * (5 << 20), "remote.not_openai"),
    ],
)
def test_a_list_that_is_none(scripted: Make, status: int, body: bytes, key: str) -> None:
    with pytest.raises(EngineError) as caught:
        list_models(Endpoint(scripted(status, body)))
    assert caught.value.key == key
    assert caught.value.hint is not None


def test_contexts_have_many_names(scripted: Make) -> None:
    listed = [{"id": "a", "max_model_len": 5}, {"id": "b", "meta": {"n_ctx": 6}}, {"id": "c", "max_model_len": "7"}]
    url = scripted(200, json.dumps({"data": listed}).encode())
    assert [one.context for one in list_models(Endpoint(url))] == [5, 6, 0]


@pytest.mark.parametrize(
    ("status", "body", "key"),
    [
        (401, b"{}", "remote.key"),
        (404, b"", "remote.no_model"),
        (429, b"", "remote.busy"),
        (500, b"oops", "remote.refused"),
        (400, b'{"error": {"message": "top_k is too large"}}', "remote.refused"),
        (200, b"", "remote.unreachable"),
        (200, b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', "remote.unreachable"),
        (200, b"data: nonsense\n\n", "engine.nonsense"),
    ],
)
def test_a_failing_reply_is_put_in_our_words(scripted: Make, status: int, body: bytes, key: str) -> None:
    endpoint = Endpoint(scripted(status, body), KEY, "m", silence_s=READY_S)
    with pytest.raises(EngineError) as caught:
        asyncio.run(_collect(endpoint))
    assert caught.value.key == key
    assert KEY not in str(caught.value)


async def _collect(endpoint: Endpoint) -> str:
    upstream = Upstream(endpoint, context=0, placement=Message("remote.placement", {"host": "h"}))
    sampling = Sampling()
    prompt = upstream.prepare([ChatMessage("user", "hi")], sampling)
    async with aclosing(upstream.generate(prompt, sampling)) as steps:  # type: ignore[type-var]
        return "".join([step.text async for step in steps])


def test_a_silent_server_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", silence_s=0.2)
        with pytest.raises(EngineError) as caught:
            asyncio.run(_collect(endpoint))
        with pytest.raises(EngineError):
            list_models(endpoint, timeout_s=0.2)
    assert caught.value.key == "remote.unreachable"


def test_a_list_that_trickles_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.01)

        threading.Thread(target=trickle, daemon=True).start()
        with pytest.raises(EngineError) as caught:
            list_models(Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}"), timeout_s=0.3)
    assert caught.value.key == "remote.not_openai"


def test_a_server_that_is_not_there_is_said_while_loading(engines: Callable[..., Supervisor]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    engine = engines()
    engine.load(Path("-"), EngineOptions(engine="remote", url=f"http://127.0.0.1:{port}"))
    with pytest.raises(EngineError) as caught:
        engine.wait_ready(READY_S)
    assert caught.value.key == "remote.unreachable"
    assert engine.status().state is EngineState.FAILED
