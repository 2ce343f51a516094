"""What every response carries, and what none may: a content security policy, and no leave for other sites to read it.

Knows nothing about the response itself.
"""

from collections.abc import Iterable

from starlette.types import Message, Send

# gradio needs inline and evaluated scripts, so this does not stop a script that got in; it stops the page from calling
# out, being framed, and loading anything from elsewhere.
_POLICY = (
    "default-src 'self'",
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "media-src 'self' data: blob:",
    "font-src 'self' data:",
    "connect-src 'self'",
    "worker-src 'self' blob:",
    "frame-src 'none'",
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
)
SECURITY: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", "; ".join(_POLICY).encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), usb=()"),
)
# Browsers complain about this one on plain http from another machine, where they ignore it.
_OPENER = (b"cross-origin-opener-policy", b"same-origin")
_OURS = frozenset(name for name, _ in (*SECURITY, _OPENER))


class Outgoing:
    """A ``send`` that passes every message on at once and only touches the head of the response."""

    def __init__(self, send: Send, *, trustworthy: bool) -> None:
        self._send = send
        self._fixed = (*SECURITY, _OPENER) if trustworthy else SECURITY
        self._cookies: list[bytes] = []
        self.status = 0  # of the response, once it has begun

    def add_cookie(self, cookie: bytes) -> None:
        """Add a Set-Cookie header to the response to come."""
        self._cookies.append(cookie)

    async def __call__(self, message: Message) -> None:
        """Send one message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kept = [pair for pair in message.get("headers", ()) if not _dropped(pair[0])]
            cookies = [(b"set-cookie", cookie) for cookie in self._cookies]
            message = {**message, "headers": [*kept, *self._fixed, *cookies]}
        await self._send(message)

    async def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole response of the guard's own."""
        every = [*headers, (b"content-length", str(len(body)).encode())]
        await self({"type": "http.response.start", "status": status, "headers": every})
        await self({"type": "http.response.body", "body": body})


def _dropped(name: bytes) -> bool:
    lowered = name.lower()
    return lowered in _OURS or lowered.startswith(b"access-control-")
