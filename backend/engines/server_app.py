"""The HTTP face of every engine process: health, figures, models, and chat in OpenAI's protocol, behind a key.

Streams come from async generators, so that a client who leaves stops the computation at once: a plain generator would
go on. Knows nothing about torch, tokens or how the process was started.
"""

import asyncio
import contextlib
import hmac
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable
from functools import partial
from typing import Any

import psutil
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from backend.engines import protocol
from backend.engines.base import EngineState, Finish, Usage
from backend.engines.desk import Desk
from backend.engines.generator import Generator, Prompt, Readiness, Step
from backend.engines.memory import memory_was_short
from backend.engines.preparing import Preparing
from backend.errors import CriaError, EngineError, UsageError, unexpected


class EventStream(StreamingResponse):
    """A streamed response that closes its generator however it ends, not when the garbage collector comes by."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


class _Json(JSONResponse):
    """A document in ASCII: file names and texts of models may hold what UTF-8 cannot."""

    def render(self, content: Any) -> bytes:
        return protocol.json_bytes(content)


def build_app(readiness: Readiness, key: str) -> FastAPI:
    """Return the application of one engine process; ``key`` is what callers must present."""
    wanted = f"Bearer {key}".encode()

    def check_key(request: Request) -> None:
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), wanted):
            raise EngineError("engine.no_key")

    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(check_key)],
        default_response_class=_Json,
    )
    desk, preparing = Desk(), Preparing()
    _add_error_handlers(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return health_json(readiness, preparing.problem())

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        figures = dict(readiness.generator.figures()) if readiness.generator else {}
        return {
            "active": desk.active,
            "waiting": desk.waiting,
            "short": desk.short,
            "tokens_per_s": round(desk.tokens_per_s(), 3),
            "slots": readiness.generator.slots if readiness.generator else 0,
            "rss_bytes": psutil.Process().memory_info().rss,
            **figures,
        }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": readiness.folder.name, "object": "model", "created": 0, "owned_by": "cria"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: protocol.ChatRequest) -> Response:
        arrived = time.monotonic()
        generator = _ready(readiness)
        desk.check_open()
        prompt = await _prepared(preparing, generator, body)
        reply = _Reply(generator, desk, prompt, body, readiness.folder.name, arrived)
        if body.stream:
            return EventStream(reply.events())
        return await _unless_gone(request, reply.whole())

    return app


def health_json(readiness: Readiness, problem: CriaError | None = None) -> dict[str, Any]:
    """Return where the process stands, as the supervisor reads it; ``problem``: why it takes no more requests."""
    generator = readiness.generator
    error = readiness.error or problem or (generator.problem() if generator else None)
    note = generator.note if generator else readiness.note
    return {
        "state": (EngineState.FAILED if error else readiness.state).value,
        "model": getattr(generator, "model", ""),  # an engine elsewhere says which model it has
        "loaded_bytes": readiness.loaded_bytes,
        "total_bytes": readiness.total_bytes,
        "error": error.to_json() if error else None,
        "context": generator.context if generator else 0,
        "placement": generator.placement.to_json() if generator else None,
        "note": note.to_json() if note else None,
    }


def _add_error_handlers(app: FastAPI) -> None:
    """Turn every error into OpenAI's error JSON."""

    @app.exception_handler(CriaError)
    async def said(_: Request, error: CriaError) -> Response:
        return _error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _error_response(UsageError("engine.bad_request", field=where, what=str(first["msg"])))


def _error_response(error: CriaError) -> Response:
    return _Json(protocol.error_body(error), protocol.error_status(error))


def _ready(readiness: Readiness) -> Generator:
    if readiness.generator is None or readiness.state is not EngineState.READY:
        raise EngineError("engine.not_ready")
    problem = readiness.generator.problem()
    if problem is not None:
        raise problem
    return readiness.generator


async def _prepared(preparing: Preparing, generator: Generator, body: protocol.ChatRequest) -> Prompt:
    if not body.messages[-1].content.strip():
        raise UsageError("engine.empty_message")
    return await preparing.run(partial(generator.prepare, body.chat_messages(), body.sampling()))


async def _unless_gone(request: Request, work: Awaitable[dict[str, Any]]) -> Response:
    """Await an answer, and drop it when the client leaves: nobody is there to read it."""
    answer = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            return Response(status_code=499)  # nginx's "client closed request"; nobody sees it
        return _Json(answer.result())
    finally:
        for task in (answer, gone):
            task.cancel()
        await asyncio.wait((answer, gone))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Reply:
    """One reply on its way: waits for a slot, measures, and hands out steps in either shape."""

    def __init__(
        self, generator: Generator, desk: Desk, prompt: Prompt, body: protocol.ChatRequest, model: str, arrived: float
    ) -> None:
        self._generator, self._desk, self._prompt, self._body = generator, desk, prompt, body
        self._head = protocol.reply_head(f"chatcmpl-{uuid.uuid4().hex}", model, int(time.time()), streaming=body.stream)
        self._arrived = arrived
        self._first = self._last = 0.0
        self._tokens = self._at_first = 0
        self._prompt_tokens, self._cached_tokens = prompt.tokens, 0

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Yield the generator's steps, from the moment a slot is free."""
        async with self._desk.slot(self._generator.slots):
            stream = self._generator.generate(self._prompt, self._body.sampling())
            async with contextlib.aclosing(stream) as steps:  # type: ignore[type-var] # every generator here has aclose
                try:
                    async for step in steps:
                        self._measure(step)
                        yield step
                except CriaError as error:
                    self._desk.short += memory_was_short(error)
                    raise

    def _measure(self, step: Step) -> None:
        self._prompt_tokens = step.prompt_tokens or self._prompt_tokens
        self._cached_tokens = step.cached_tokens
        if step.tokens > self._tokens:
            self._last = step.at or time.monotonic()
            if not self._first:
                self._first, self._at_first = self._last, step.tokens
            self._desk.count(step.tokens - self._tokens)
            self._tokens = step.tokens

    def _usage(self) -> Usage:
        """Return what it used so far. Tokens that came together with the first count as slow as those after them."""
        waited = self._first - self._arrived if self._first else 0.0
        after = self._tokens - self._at_first
        decoded = (self._last - self._first) * (self._tokens - 1) / after if after else 0.0
        return Usage(self._prompt_tokens, self._tokens, round(waited, 4), round(decoded, 4), self._cached_tokens)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the reply as server-sent events; an error in mid-reply is the last event."""
        try:
            async with contextlib.aclosing(self.steps()) as steps:
                async for step in steps:
                    yield protocol.sse(self._chunk(step))
            yield protocol.DONE
        except CriaError as error:
            yield protocol.sse(protocol.error_body(error))
        except Exception as problem:  # noqa: BLE001 - the headers are out: an event is the only way left to say it
            yield protocol.sse(protocol.error_body(unexpected(problem)))

    def _chunk(self, step: Step) -> dict[str, Any]:
        usage = self._usage()
        return protocol.chunk_json(
            self._head, step.text, tokens=step.tokens, finish=step.finish,
            usage=usage if step.finish else None, times=(usage.first_token_s, usage.decode_s),
        )  # fmt: skip

    async def whole(self) -> dict[str, Any]:
        """Return the reply as one document."""
        parts, finish = [], Finish.STOP
        async with contextlib.aclosing(self.steps()) as steps:
            async for step in steps:
                parts.append(step.text)
                finish = step.finish or finish
        return protocol.whole_json(self._head, "".join(parts), finish, self._usage())
