"""The gateway's routes: what is loaded, one reply, and whether the server is up.

Knows nothing about how replies are made, and nothing about who may reach it: the guard stands in front.
"""

import hmac
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from backend.api.errors import OpenAIRoute
from backend.api.names import check_name, names, sampling_of
from backend.api.replies import ClientLeft, Reply
from backend.api.schema import PublicRequest
from backend.engines.base import ChatEngine, EngineState, EngineStatus
from backend.engines.line import Line
from backend.errors import EngineError, Refused, UsageError
from backend.replies import alternate
from backend.settings import Settings

MAX_OPEN = 128  # requests being answered or waiting for it; the engine queues them
_PLACE_HEADER = "x-cria-place"  # the guard's own finding; empty for this machine
_CLIENT_CLOSED = 499  # nginx's number; nobody sees it
_LOADING = frozenset({EngineState.STARTING, EngineState.LOADING})


class EventStream(StreamingResponse):
    """A stream of events that lets go of everything it holds however it ends, even before its first event."""

    def __init__(self, reply: Reply, held: AsyncExitStack) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(reply.events(), media_type="text/event-stream", headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        async with self._held:
            await super().__call__(scope, receive, send)


class Gateway:
    """What the routes share: the engine, and how many requests are open."""

    def __init__(self, engine: ChatEngine, settings: Settings) -> None:
        self.engine = engine
        self._key = settings.api_key.encode()
        self._open = 0

    def check_key(self, request: Request) -> None:
        """Let callers with the key through; without a key in the settings, everybody.

        Raises:
            Refused: the key is missing or wrong.
        """
        given = request.headers.get("authorization", "").encode()
        if self._key and not hmac.compare_digest(given, b"Bearer " + self._key):
            raise Refused("api.no_key")

    def ready(self, model: str) -> EngineStatus:
        """Return the status of an engine that can answer as ``model`` ("": whatever is loaded).

        Raises:
            EngineError: none can now.
            UsageError: another model is loaded, or an adapter is asked for that is not attached.
        """
        status = self.engine.status()
        if not status.answers:
            raise EngineError("api.loading" if status.state in _LOADING else "api.no_model", model=status.model)
        check_name(model, status)
        return status

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places for open requests.

        Raises:
            EngineError: all are taken.
        """
        if self._open >= MAX_OPEN:
            raise EngineError("api.crowded", most=MAX_OPEN)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def models(self) -> list[dict[str, Any]]:
        """Return what is loaded, alone and with each of its LoRAs, as OpenAI lists models."""
        status = self.engine.status()
        found = names(status) if status.answers else []
        return [_listed(name) for name in found]


def _listed(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "cria"}


def _who(request: Request) -> str:
    """Return what counts as one program: an address or a network. The key is the same for all of them."""
    here = request.client.host if request.client else ""
    return f"program {request.headers.get(_PLACE_HEADER) or here}"


def build_api(engine: ChatEngine, settings: Settings, line: Line | None = None) -> APIRouter:
    """Return the routes of the gateway over one engine; ``line`` is the queue it shares with others."""
    gateway, queue = Gateway(engine, settings), line or Line()
    api = APIRouter(route_class=OpenAIRoute, include_in_schema=False)
    keyed = [Depends(gateway.check_key)]

    @api.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "engine": gateway.engine.status().state.value}

    @api.get("/v1/models", dependencies=keyed)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": gateway.models()}

    @api.get("/v1/models/{model:path}", dependencies=keyed)
    async def model(model: str) -> dict[str, Any]:
        gateway.ready(model)
        return _listed(model)

    @api.post("/v1/chat/completions", dependencies=keyed)
    async def chat(request: Request, asked: PublicRequest) -> Response:
        status = gateway.ready(asked.model)
        sampling = sampling_of(asked, status)
        async with AsyncExitStack() as held:
            held.enter_context(gateway.place())
            seat = queue.seat(gateway.engine, _who(request), program=True)
            pieces = seat.chat(alternate(asked.chat_messages()), sampling)
            reply = Reply(pieces, asked, asked.model or status.model)
            held.push_async_callback(reply.close)
            try:
                await reply.begin(request)
                if not asked.stream:
                    return JSONResponse(await reply.whole(request))
            except ClientLeft:
                return Response(status_code=_CLIENT_CLOSED)
            return EventStream(reply, held.pop_all())

    @api.api_route("/v1/{rest:path}", methods=["GET", "POST"], dependencies=keyed)
    async def nothing(rest: str) -> None:
        raise UsageError("api.no_route", path=f"/v1/{rest}"[:200])

    return api
