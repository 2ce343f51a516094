"""The client against servers that do not do what they should."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from backend.engines.base import ChatMessage, Finish, Piece, Sampling
from backend.engines.client import Endpoint, stream_chat
from backend.errors import EngineError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
Say = Callable[[bytes], Endpoint]


@pytest.fixture
def says() -> Iterator[Say]:
    """Return a maker of servers that answer one request with fixed bytes and hang up."""
    listeners: list[socket.socket] = []

    def make(answer: bytes) -> Endpoint:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as request:
                # The whole request is read: closing with bytes unread resets the connection, which is another fault.
                length = 0
                while (line := request.readline()) not in {b"\r\n", b""}:
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                request.read(length)
                with suppress(OSError):  # who has heard enough hangs up
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        return Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}")

    yield make
    for listener in listeners:
        listener.close()


def _collect(endpoint: Endpoint) -> list[Piece]:
    async def run() -> list[Piece]:
        return [piece async for piece in stream_chat(endpoint, [ChatMessage("user", "hi")], Sampling())]

    return asyncio.run(run())


def test_openais_own_stream(says: Say) -> None:
    chunks = [
        b': comment\n\ndata: {"choices":[{"delta":{"role":"assistant"}}]}\r\n\r\n',
        'data: {"choices":[{"delta":{"content":"你\u2028好"}}]}\n\n'.encode(),
        b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\ndata: [DONE]\n\n',
    ]
    pieces = _collect(says(HEAD + b"\r\n" + b"".join(chunks)))
    assert [piece.text for piece in pieces] == ["你\u2028好", ""]
    assert pieces[-1].finish is Finish.LENGTH
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        (b"", "engine.lost"),
        (b"nonsense\r\n\r\n", "engine.lost"),
        (HEAD + b"\r\n", "engine.cut_off"),
        (HEAD + b'\r\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\n', "engine.cut_off"),
        (HEAD + b"Content-Length: 500\r\n\r\ndata: {", "engine.lost"),
        (HEAD + b"\r\ndata: {nonsense\n\n", "engine.nonsense"),
        (HEAD + b"\r\ndata: []\n\n", "engine.nonsense"),
        (HEAD + b'\r\ndata: {"choices": [7]}\n\n', "engine.nonsense"),
        (HEAD + b'\r\ndata: {"choices": {"a": 1}}\n\n', "engine.nonsense"),
        (HEAD + b"\r\ndata: " + b"[" * 100_000 + b"\n\n", "engine.nonsense"),
        (HEAD + b'\r\ndata: {"error": {"message": "boom"}}\n\n', "engine.refused"),
        (HEAD + b'\r\ndata: {"error": {"cria": {"key": "no.such"}}}\n\n', "engine.refused"),
        (HEAD + b'\r\ndata: {"error": {"cria": {"key": "engine.died", "params": 5}}}\n\n', "engine.refused"),
        (
            HEAD + b'\r\ndata: {"error": {"cria": {"key": "engine.not_in_time", "params": {"seconds": []}}}}\n\n',
            "engine.refused",
        ),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 4\r\n\r\noops", "engine.refused"),
        (b"HTTP/1.1 502 Bad\r\nConnection: close\r\n\r\n" + b"oops " * 1_000_000, "engine.refused"),
    ],
)
def test_a_broken_stream_is_an_engine_error(says: Say, answer: bytes, key: str) -> None:
    with pytest.raises(EngineError) as caught:
        _collect(says(answer))
    assert caught.value.key == key


def test_a_server_that_never_ends_is_left(says: Say) -> None:
    chunk = b'data: {"choices":[{"delta":{"content":"' + b"a" * 1000 + b'"}}]}\n\n'
    many = Sampling().max_new_tokens
    with pytest.raises(EngineError) as caught:
        _collect(says(HEAD + b"\r\n" + chunk * many))
    assert (caught.value.key, caught.value.params) == ("remote.endless", {"most": many})


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(EngineError, match="connection"):
        _collect(Endpoint(f"http://127.0.0.1:{port}"))
