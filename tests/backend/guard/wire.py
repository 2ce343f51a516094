"""A guard around a small app, and a client that speaks raw ASGI to it: every header and byte is the test's own."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from backend.guard import Guard, Limits
from backend.settings import Settings

HERE, AWAY = "127.0.0.1", "192.0.2.7"


class Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def set_cookies(self) -> dict[str, str]:
        jar = SimpleCookie()
        for name, value in self.headers:
            if name == "set-cookie":
                jar.load(value)
        return {name: morsel.value for name, morsel in jar.items()}

    def cookie_line(self, name: str) -> str:
        return next(value for key, value in self.headers if key == "set-cookie" and value.startswith(f"{name}="))


class Echo:
    """The guarded app: says what reached it, with headers no app of ours should send."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        body = b""
        while scope["method"] == "POST":
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        said = {
            "path": scope["path"],
            "headers": [[key.decode("latin-1"), value.decode("latin-1")] for key, value in scope["headers"]],
            "body": body.decode("latin-1"),
        }
        headers = [
            (b"content-type", b"application/json"),
            (b"access-control-allow-origin", b"https://evil.test"),
            (b"Access-Control-Allow-Credentials", b"true"),
            (b"content-security-policy", b"default-src *"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})


@dataclass
class Guarded:
    """One guard with its app and its clock."""

    guard: Guard
    echo: Echo
    clock: Clock

    def ask(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: dict[str, str] | None = None,
        body: bytes | Any | None = None,
        client: str = HERE,
        **extra: Any,
    ) -> Answer:
        """Send one request. A ``body`` that is no bytes goes out as JSON; ``Host`` is ours unless ``headers`` say."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        wanted = {"host": "localhost:7860", **(headers or {})}
        if raw is not None:
            wanted = {"content-type": "application/json", "content-length": str(len(raw)), **wanted}
        return asyncio.run(send_raw(self.guard, method, path, wanted, [raw or b""], client=client, **extra))

    def passed(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        """Send a request that must get through; return the headers that reached the app."""
        answer = self.ask(*args, **kwargs)
        assert answer.status == 200, answer
        return dict(answer.json()["headers"])


def make_scope(method: str, path: str, headers: Any, *, client: str = HERE, **extra: Any) -> Scope:
    plain, _, query = path.partition("?")
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {
        "type": "http",
        "method": method,
        "path": plain,
        "query_string": query.encode(),
        "scheme": "http",
        "root_path": "",
        "headers": [(key.lower().encode(), value.encode("latin-1")) for key, value in pairs],
        "client": (client, 40000),
        "server": ("127.0.0.1", 7860),
        **extra,
    }


async def send_raw(
    guard: Guard, method: str, path: str, headers: Any, chunks: Sequence[bytes], *, left: bool = False, **extra: Any
) -> Answer:
    """Send a body in chunks (``left``: the client leaves after them) and collect the answer."""
    answer = Answer()
    waiting: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if left:
        waiting.append({"type": "http.disconnect"})
    else:
        waiting[-1]["more_body"] = False

    async def receive() -> Message:
        if not waiting:
            await asyncio.sleep(3600)
        return waiting.pop(0)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = [(key.decode().lower(), value.decode("latin-1")) for key, value in message["headers"]]
        else:
            answer.body += message.get("body", b"")

    await guard(make_scope(method, path, headers, **extra), receive, send)
    return answer


def guarded(limits: Limits = Limits(), **settings: Any) -> Guarded:  # noqa: B008 - frozen
    """Build a guard for these settings."""
    echo, clock = Echo(), Clock()
    return Guarded(Guard(echo, Settings(data_dir=Path("unused"), **settings), limits=limits, clock=clock), echo, clock)
