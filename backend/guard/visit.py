"""One request as the guard reads it: parsed once, decided on in one place. Knows nothing about what is allowed."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlencode

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from backend.guard import admin, visitors
from backend.guard.hosts import LOOPBACK, host_name, is_loopback, network_of
from backend.guard.routes import Kind, kind_of
from backend.text import pick_language

VISITOR_HEADER, ADMIN_HEADER, PLACE_HEADER = b"x-cria-visitor", b"x-cria-admin", b"x-cria-place"
_INTERNAL = b"x-cria-"
_SECRET_COOKIES = frozenset({visitors.COOKIE, admin.COOKIE})


@dataclass(frozen=True)
class Visit:
    """``path`` is without a proxy's prefix; ``client`` and ``arrived_at`` are addresses."""

    scope: Scope
    method: str
    path: str
    kind: Kind
    headers: Headers
    cookies: Mapping[str, str]
    client: str
    arrived_at: str
    language: str

    @staticmethod
    def of(scope: Scope) -> "Visit":
        """Read a request."""
        headers = Headers(scope=scope)
        cookies = cookie_parser("; ".join(headers.getlist("cookie")))
        root, path = scope.get("root_path", ""), scope["path"]
        path = path[len(root) :] if root and path.startswith(f"{root}/") else path
        return Visit(
            scope=scope,
            method=scope["method"],
            path=path,
            kind=kind_of(path),
            headers=headers,
            cookies=cookies,
            client=(scope.get("client") or ("", 0))[0],
            arrived_at=(scope.get("server") or ("", 0))[0] or "",
            language=pick_language(cookies.get("lang"), headers.get("accept-language")),
        )

    @property
    def has_body(self) -> bool:
        """Tell whether a body comes with it."""
        return self.method == "POST"

    @property
    def opens_page(self) -> bool:
        """Tell whether a person follows a link or types an address. Only such a request may come from another site."""
        wanted = (self.headers.get("sec-fetch-mode", "navigate"), self.headers.get("sec-fetch-dest", "document"))
        return self.kind is Kind.PAGE and self.method == "GET" and wanted == ("navigate", "document")

    @property
    def as_json(self) -> bool:
        """Tell whether a program reads the answer."""
        programs = {Kind.API, Kind.METRICS, Kind.GRADIO, Kind.ADMIN}
        return self.kind in programs or "text/html" not in self.headers.get("accept", "")

    @property
    def secure(self) -> bool:
        """Tell whether the browser came over TLS."""
        return bool(self.scope.get("scheme") == "https")

    @property
    def trustworthy(self) -> bool:
        """Tell whether browsers see this origin as one (https, or this machine itself)."""
        return self.secure or host_name(self.headers.get("host", "")) in LOOPBACK

    @property
    def home(self) -> str:
        """The path under which a browser sees the app: what a proxy put before it, and a slash."""
        return f"{self.scope.get('root_path', '').rstrip('/')}/"

    def given_token(self) -> str | None:
        """Return the administrator's token of a page address ``/?token=...``, if there is one."""
        if self.method != "GET" or self.path != "/":
            return None
        return self._query().get("token", [None])[-1]

    def address_without_token(self) -> str:
        """Return where the browser goes once its token has become a cookie: the same address, the token left out."""
        query = self._query()
        query.pop("token", None)
        left = urlencode(query, doseq=True)
        return quote(self.home) + (f"?{left}" if left else "")

    def passed_on(self, owner: str, *, admin: bool) -> Scope:
        """Return the scope for the app: no secret cookies, no forged internal headers, and the guard's own findings."""
        kept = [pair for pair in self.scope["headers"] if not pair[0].lower().startswith(_INTERNAL)]
        headers = [(name, _without_secrets(value) if name == b"cookie" else value) for name, value in kept]
        place = "" if is_loopback(self.client) else network_of(self.client)
        found = [(VISITOR_HEADER, owner.encode()), (ADMIN_HEADER, b"1" if admin else b"0")]
        found += [(PLACE_HEADER, place.encode())]
        return {**self.scope, "headers": [*headers, *found]}

    def log_line(self) -> str:
        """Return method and path for the log. The query is left out: tokens and session names travel there."""
        return f"{self.method} {quote(self.path)}"

    def _query(self) -> dict[str, list[str]]:
        return parse_qs(self.scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)


def _without_secrets(cookie: bytes) -> bytes:
    pairs = cookie.split(b";")
    return b";".join(p for p in pairs if p.partition(b"=")[0].strip().decode("latin-1") not in _SECRET_COOKIES).strip()
