"""Which paths exist for the outside, and of what kind they are.

gradio brings some ninety routes; the page uses about a dozen. Under ``/gradio_api/`` only what is listed here is open,
so a route that a new gradio adds is shut until somebody has thought about it (a test compares this list with the real
ones). Knows nothing about what a route does.
"""

from enum import StrEnum


class Kind(StrEnum):
    """What a path is, as far as the guard must tell them apart."""

    PAGE = "page"  # a person's browser asks for it by its address
    ASSET = "asset"  # scripts, styles, icons: the same for everybody
    GRADIO = "gradio"  # the page talking to its server, in the name of one browser tab
    API = "api"  # programs; they bring keys of their own
    METRICS = "metrics"  # a program; it brings the API key or the administrator's token
    ADMIN = "admin"  # the guard's own: log in, log out
    OFF = "off"


_EXACT = {
    "/": Kind.PAGE,
    "/admin/login": Kind.ADMIN,
    "/admin/logout": Kind.ADMIN,
    "/health": Kind.API,
    "/metrics": Kind.METRICS,
    "/favicon.ico": Kind.ASSET,
    "/theme.css": Kind.ASSET,
    "/robots.txt": Kind.ASSET,
    "/manifest.json": Kind.ASSET,
    "/gradio_api/app_id": Kind.ASSET,  # asked every two seconds after a lost connection; a number per server start
    "/gradio_api/cancel": Kind.GRADIO,
    "/gradio_api/reset": Kind.GRADIO,  # does nothing, but the page sends it along with every cancel
    "/gradio_api/queue/join": Kind.GRADIO,
    "/gradio_api/queue/data": Kind.GRADIO,
}
_UNDER = {
    "/assets/": Kind.ASSET,
    "/static/": Kind.ASSET,
    "/v1/": Kind.API,
    "/gradio_api/run/": Kind.GRADIO,
}
_OFF_UNDER = ("/gradio_api", "/login", "/logout", "/config", "/svelte", "/monitoring", "/pwa_icon", "/docs", "/redoc",
              "/openapi.json", "/admin")  # fmt: skip


def kind_of(path: str) -> Kind:
    """Return the kind of a decoded path, without the prefix of a proxy.

    Paths that could be read in two ways (``//``, ``..``, a backslash, control characters) are off.
    """
    odd = any(part in {"", ".", ".."} for part in path.split("/")[1:-1]) or path.endswith(("/.", "/.."))
    if not path.startswith("/") or odd or "\\" in path or not path.isprintable():
        return Kind.OFF
    found = _EXACT.get(path) or next((kind for start, kind in _UNDER.items() if path.startswith(start)), None)
    if found is not None:
        return found
    off = any(path == start or path.startswith(f"{start}/") for start in _OFF_UNDER)
    return Kind.OFF if off else Kind.PAGE
