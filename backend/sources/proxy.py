"""Which proxy stands between this machine and an address, what it wants to be told, and what its refusals mean.

The variables are those that most programs read: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY. Knows nothing about
requests.
"""

import ssl
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from backend.errors import SourceError
from backend.sources.trouble import Trouble

_TUNNEL = "Tunnel connection failed: "  # http.client's words before the status
_PORTALS = ("301", "302", "303", "307", "308", "511")  # what a login page answers to CONNECT


def proxy_of(link: SplitResult, proxies: Mapping[str, str] | None = None) -> SplitResult | None:
    """Return the proxy for an address, None where it is reached directly.

    ``proxies`` is as ``urllib.request.getproxies`` returns it; None: those of the environment.

    Raises:
        Trouble: it is of a kind that cannot be used; hopeless.
    """
    known = urllib.request.getproxies() if proxies is None else proxies
    address = known.get(link.scheme) or known.get("all")
    if not address or urllib.request.proxy_bypass(link.netloc):
        return None
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme != "http" or not proxy.hostname:
        shown = f"{proxy.scheme}://{proxy.hostname}"
        raise Trouble(SourceError("download.proxy_kind", proxy=shown), hopeless=True)
    return proxy


def proxy_headers(proxy: SplitResult) -> dict[str, str]:
    """Return what a proxy is told: name and password, if its address has them."""
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + b64encode(pair.encode()).decode()}


def blocked(host: str, problem: Exception) -> SourceError | None:
    """Return what a proxy means by a failure to connect through it; None if it is not the proxy's.

    One that answers with a page says that the tunnel is there, and then speaks no TLS.
    """
    text = str(problem)
    if text.startswith(_TUNNEL):
        status = text.removeprefix(_TUNNEL)[:3]
        if status == "407":
            return SourceError("proxy.login", host=host)
        if status in _PORTALS:
            return SourceError("proxy.portal", host=host)
        return SourceError("proxy.refused", host=host, what=text.removeprefix(_TUNNEL)[:100])
    if isinstance(problem, ssl.SSLError | ConnectionResetError) and not isinstance(
        problem, ssl.SSLCertVerificationError
    ):
        return SourceError("proxy.portal", host=host)
    return None
