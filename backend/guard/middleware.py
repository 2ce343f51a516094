"""The guard: one ASGI middleware around page, gateway and all, that every request passes from top to bottom.

It never holds back a response: streams pass piece by piece, and a client that leaves is noticed at once. Knows nothing
about what it guards, except for the shape of gradio's requests.
"""

import json
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from backend.engines.tally import Tally
from backend.guard import admin, visitors
from backend.guard.admin import Admin, same
from backend.guard.denied import Denied
from backend.guard.headers import Outgoing
from backend.guard.hosts import Hosts, check_fetch_site, check_origin, network_of
from backend.guard.limits import Limits, Places, check_declared, read_body, replayed
from backend.guard.routes import Kind
from backend.guard.sessions import SessionOwners, sessions_named
from backend.guard.visit import Visit
from backend.settings import Settings

_LOG = logging.getLogger("cria.access")
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_NO_STORE = (b"cache-control", b"no-store")


class Guard:
    """Wraps an ASGI app. Everything it remembers is bounded and lives in this process; ``clock`` counts seconds.

    What it turns away is counted in ``tally``.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        tally: Tally | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._limits, self._tally = limits, tally
        self._api_key = settings.api_key
        self._hosts = Hosts(settings.allow_hosts, listen=settings.listen)
        self._admin = Admin(settings.admin_token, listen=settings.listen, clock=clock)
        self._sessions = SessionOwners(clock)
        self._places = Places(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(Visit.of(scope), receive, send)
        elif scope["type"] == "websocket":  # nothing here speaks it
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, visit: Visit, receive: Receive, send: Send) -> None:
        out, started = Outgoing(send, trustworthy=visit.trustworthy), time.monotonic()
        with ExitStack() as places:
            try:
                places.enter_context(self._places.taken_by(visit.client))
                self._check_source(visit)
                body = await read_body(receive, self._limits) if visit.has_body else b""
                if body is None:  # the client left
                    return
                if not await self._answer_itself(visit, body, out):
                    scope = self._identified(visit, body, out)
                    await self._app(scope, replayed(body, receive) if visit.has_body else receive, out)
            except Denied as problem:
                if self._tally is not None:
                    self._tally.refused(str(int(problem.status)))
                head = [_JSON if visit.as_json else _TEXT, *problem.headers()]
                await out.answer(problem.status, head, problem.body(visit.language, as_json=visit.as_json))
            finally:
                spent_ms = 1000 * (time.monotonic() - started)
                _LOG.info("%s %s %d %.0f ms", visit.client, visit.log_line(), out.status, spent_ms)

    def _check_source(self, visit: Visit) -> None:
        """Check what can be checked before a byte of the body is read."""
        host = self._hosts.check_host(visit.headers.getlist("host"), visit.arrived_at)
        check_origin(visit.headers.get("origin"), scheme=visit.scope.get("scheme", "http"), host=host)
        check_fetch_site(visit.headers.get("sec-fetch-site"), opens_page=visit.opens_page)
        if visit.kind is Kind.OFF:
            raise Denied(HTTPStatus.NOT_FOUND, "guard.off")
        if visit.method not in _METHODS:
            raise Denied(HTTPStatus.METHOD_NOT_ALLOWED, "guard.method", method=visit.method[:20])
        check_declared(visit.headers.getlist("content-length"), self._limits.body_bytes)

    async def _answer_itself(self, visit: Visit, body: bytes, out: Outgoing) -> bool:
        """Answer what concerns only the guard: logging in, by address or by the page's box, and logging out."""
        token = visit.given_token()
        if token is not None and self._admin.asks:
            self._log_in(visit, token, out)
            await out.answer(303, [(b"location", visit.address_without_token().encode()), _NO_STORE], b"")
        elif visit.kind is not Kind.ADMIN:
            return False
        elif visit.method != "POST":
            raise Denied(HTTPStatus.METHOD_NOT_ALLOWED, "guard.method", method=visit.method)
        elif visit.path == "/admin/login":
            self._log_in(visit, _token_in(body), out)
            await out.answer(200, [_JSON, _NO_STORE], b'{"admin": true}')
        else:
            self._set_admin_cookie(visit, "", out, max_age_s=0)
            await out.answer(200, [_JSON, _NO_STORE], b'{"admin": false}')
        return True

    def _log_in(self, visit: Visit, token: str, out: Outgoing) -> None:
        self._admin.check_token(token, client=network_of(visit.client))
        self._set_admin_cookie(visit, self._admin.new_cookie(), out, max_age_s=admin.SESSION_S)

    def _set_admin_cookie(self, visit: Visit, value: str, out: Outgoing, *, max_age_s: int) -> None:
        out.add_cookie(_cookie(visit, admin.COOKIE, value, max_age_s=max_age_s, same_site="Strict"))

    def _identified(self, visit: Visit, body: bytes, out: Outgoing) -> Scope:
        """Find out who asks, give a new browser its cookie, and pass both facts on."""
        visitor = visitors.known_visitor(visit.cookies.get(visitors.COOKIE))
        opening = visit.kind is Kind.PAGE and visit.method == "GET"
        if opening or (visitor is None and visit.kind is Kind.GRADIO):  # opening the page renews the year
            visitor = visitor or visitors.new_visitor()
            # Lax, not Strict: on a link from elsewhere a strict cookie stays away, and the new one set here would take
            # the place of the old, conversations and all. No GET here does anything that would need more than Lax.
            cookie, age_s = visitors.COOKIE, visitors.YEAR_S
            out.add_cookie(_cookie(visit, cookie, visitor, max_age_s=age_s, same_site="Lax"))
        owner = visitors.owner_of(visitor) if visitor else ""
        if visit.kind is Kind.GRADIO:
            for session in sessions_named(visit.scope.get("query_string", b""), body if visit.has_body else None):
                self._sessions.check(session, owner)
        return visit.passed_on(owner, admin=self._is_admin(visit))

    def _is_admin(self, visit: Visit) -> bool:
        """A program may bring the token itself. On the gateway a bearer is an API key and no way to guess tokens."""
        kind, _, token = visit.headers.get("authorization", "").partition(" ")
        is_key = visit.kind is Kind.API or (visit.kind is Kind.METRICS and same(token.strip(), self._api_key))
        if not is_key and self._admin.asks and kind.lower() == "bearer":
            self._admin.check_token(token.strip(), client=network_of(visit.client))
            return True
        return self._admin.knows(visit.cookies.get(admin.COOKIE))


def _cookie(visit: Visit, name: str, value: str, *, max_age_s: int, same_site: str) -> bytes:
    """Return a Set-Cookie header that no script can read."""
    parts = [f"{name}={value}", "HttpOnly", f"SameSite={same_site}", f"Path={visit.home}", f"Max-Age={max_age_s}"]
    return "; ".join([*parts, "Secure"] if visit.secure else parts).encode()


def _token_in(body: bytes) -> str:
    """Return ``token`` of ``{"token": ...}``.

    Raises:
        Denied: 400; the body is something else.
    """
    try:
        token = json.loads(body)["token"]
    except (ValueError, TypeError, KeyError, RecursionError):
        token = None
    if not isinstance(token, str):
        raise Denied(HTTPStatus.BAD_REQUEST, "guard.malformed")
    return token.strip()
