"""An engine that does what a test says, and the gateway around it, in process or on a real port."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from backend.api import build_api
from backend.engines.base import ChatMessage, EngineState, EngineStatus, Finish, Piece, Sampling, Usage
from backend.guard import Guard
from backend.settings import Settings

USAGE = Usage(prompt_tokens=3, completion_tokens=2, first_token_s=0.1, decode_s=0.2)


@dataclass
class FakeEngine:
    """Says ``script`` piece by piece; an exception in it is raised, a number is a pause in seconds."""

    script: list[Any] = field(
        default_factory=lambda: [Piece("Hel", 1), Piece("lo", 2), Piece("", 2, Finish.STOP, USAGE)]
    )
    state: EngineState = EngineState.READY
    asked: list[tuple[list[ChatMessage], Sampling]] = field(default_factory=list)
    closed: int = 0
    made: int = 0

    def status(self) -> EngineStatus:
        return EngineStatus(self.state, model="toy" if self.state is not EngineState.OFF else "")

    async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
        self.asked.append((list(messages), sampling))
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, int | float):
                    await asyncio.sleep(step)
                else:
                    self.made += 1
                    yield step
        finally:
            self.closed += 1


def app_of(engine: FakeEngine, **settings: Any) -> FastAPI:
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    web.include_router(build_api(engine, Settings(data_dir=Path("unused"), **settings)))
    return web


def ask(app: FastAPI, method: str, path: str, **request: Any) -> httpx.Response:
    """Send one request in process."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **request)

    return asyncio.run(send())


def chat(app: FastAPI, text: str = "hi", headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"model": "toy", "messages": [{"role": "user", "content": text}], **fields}
    return ask(app, "POST", "/v1/chat/completions", json=body, headers=headers)


def events(answer: httpx.Response) -> list[Any]:
    """Return the JSON of a stream's events, ``"[DONE]"`` as it is."""
    lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@contextlib.contextmanager
def on_a_port(engine: FakeEngine) -> Iterator[str]:
    """Serve the gateway behind the guard with uvicorn; yield its URL."""
    app = Guard(app_of(engine), Settings(data_dir=Path("unused")))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
