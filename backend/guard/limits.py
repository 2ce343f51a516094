"""How much one client and all together may ask for at once: bytes of a body, seconds to send it, requests in flight.

Knows nothing about what is asked.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import Message, Receive

from backend.guard.denied import Denied
from backend.guard.hosts import is_loopback, network_of

_MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """``local_requests`` is for clients on this machine: one person with many tabs, or a proxy that names nobody."""

    body_bytes: int = 8 * _MIB
    body_s: float = 60.0
    requests: int = 512
    client_requests: int = 64
    local_requests: int = 1000


class Places:
    """Counts requests in flight. Used from one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._clients: Counter[str] = Counter()
        self._remote = 0

    @contextmanager
    def taken_by(self, address: str) -> Iterator[None]:
        """Hold a place for one request. Clients on this machine never wait for strangers.

        Raises:
            Denied: 429, this client has enough in flight; 503, everybody together has.
        """
        local = is_loopback(address)
        client = "local" if local else network_of(address)
        if self._clients[client] >= (self._limits.local_requests if local else self._limits.client_requests):
            raise Denied(HTTPStatus.TOO_MANY_REQUESTS, "guard.crowded", retry_s=2)
        if not local and self._remote >= self._limits.requests:
            raise Denied(HTTPStatus.SERVICE_UNAVAILABLE, "guard.busy", retry_s=5)
        self._clients[client] += 1
        self._remote += not local
        try:
            yield
        finally:
            self._remote -= not local
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


def check_declared(lengths: list[str], most: int) -> None:
    """Refuse a body that says beforehand that it is too large.

    Raises:
        Denied: 413, it is; 400, it does not say a number.
    """
    if not all(length.isdecimal() and length.isascii() for length in lengths) or len(lengths) > 1:
        raise Denied(HTTPStatus.BAD_REQUEST, "guard.malformed")
    if lengths and (len(lengths[0]) > 15 or int(lengths[0]) > most):
        raise Denied(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "guard.too_large", most=most)


async def read_body(receive: Receive, limits: Limits) -> bytes | None:
    """Return the whole body, counted while it comes; ``None`` when the client left before its end.

    Raises:
        Denied: 413, it is too large; 408, it took too long.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                if len(body) > limits.body_bytes:
                    raise Denied(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "guard.too_large", most=limits.body_bytes)
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Denied(HTTPStatus.REQUEST_TIMEOUT, "guard.slow", wait=limits.body_s) from None


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body once more and then goes on listening for the client to leave."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
