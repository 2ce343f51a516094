"""Every way a request can fail, as OpenAI's clients know it: status, type, code. Knows nothing about the causes."""

import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from backend.engines import protocol
from backend.errors import PRIVATE, ContextFull, CriaError, UsageError

_LOG = logging.getLogger("cria.api")
_RETRY_S = {429: "5", 503: "10"}
_CODES = {
    "metrics.refused": (HTTPStatus.UNAUTHORIZED, "invalid_api_key"),
    "api.no_key": (HTTPStatus.UNAUTHORIZED, "invalid_api_key"),
    "api.no_model": (HTTPStatus.SERVICE_UNAVAILABLE, "model_not_loaded"),
    "api.loading": (HTTPStatus.SERVICE_UNAVAILABLE, "model_not_loaded"),
    "api.other_model": (HTTPStatus.NOT_FOUND, "model_not_found"),
    "api.no_route": (HTTPStatus.NOT_FOUND, "not_found"),
    "api.crowded": (HTTPStatus.TOO_MANY_REQUESTS, "queue_full"),
    "ops.too_many": (HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_exceeded"),
    "ops.too_many_there": (HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_exceeded"),
    "engine.queue_full": (HTTPStatus.TOO_MANY_REQUESTS, "queue_full"),
}
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_answer(error: CriaError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error."""
    status, code = _CODES.get(error.key, (protocol.error_status(error), error.key))
    if isinstance(error, ContextFull):
        code = "context_length_exceeded"
    body = protocol.error_body(error)
    body["error"] |= {"type": _TYPES.get(status, "server_error"), "code": code}
    return int(status), body


class OpenAIRoute(APIRoute):
    """A route whose every failure is OpenAI's error JSON, whatever app it is mounted in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler that FastAPI builds."""
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as problem:  # noqa: BLE001 - the edge of the gateway: programs read JSON, not tracebacks
                status, body = error_answer(told(problem))
                retry = {"Retry-After": _RETRY_S[status]} if status in _RETRY_S else {}
                return JSONResponse(body, status, headers=retry)

        return answered


def told(problem: Exception) -> CriaError:
    """Return what a program may know of a failure; one that nobody planned for goes to the log, not to strangers."""
    if isinstance(problem, CriaError):
        # An engine that wakes up may fail for reasons that name folders.
        return type(problem)(problem.key, **(problem.params | dict.fromkeys(PRIVATE & problem.params.keys(), "…")))
    if isinstance(problem, RequestValidationError):
        first = problem.errors()[0]
        where = "" if first["type"] == "json_invalid" else ".".join(str(part) for part in first["loc"][1:])
        return UsageError("api.bad_request", field=where[:200] or "body", what=str(first["msg"])[:500])
    if isinstance(problem, HTTPException) and problem.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return UsageError("api.bad_request", field="body", what=str(problem.detail)[:500])
    _LOG.error("a request failed", exc_info=problem)
    return CriaError("api.unexpected")
