"""Is this request meant for us, and does it come from our own page? Against DNS rebinding and cross-site requests.

Knows nothing about cookies or tokens. Background: reliability of browsers' ``Origin`` and Fetch Metadata headers
(https://fetch.spec.whatwg.org/#origin-header, https://www.w3.org/TR/fetch-metadata/).
"""

import ipaddress
import re
import socket
import threading
from collections.abc import Iterable
from http import HTTPStatus

from backend.guard.denied import Denied

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^\s:@/\\\[\]?#]+))(?::(?P<port>\d{1,5}))?", re.IGNORECASE)
_DEFAULT_PORT = {"http": "80", "https": "443"}
_NAME_S = 2.0  # a broken name server must not delay the start


def host_name(host: str) -> str | None:
    """Return name or address of a Host header in lower case, without port and brackets; ``None`` if malformed."""
    found = _HOST.fullmatch(host)
    return (found["six"] or found["name"]).lower() if found else None


def own_names() -> frozenset[str]:
    """Return the names by which this machine knows itself: short, full, and on the local link."""
    short = socket.gethostname().lower()
    names = {short, short.partition(".")[0], f"{short.partition('.')[0]}.local"}
    asked = threading.Thread(target=lambda: names.add(socket.getfqdn().lower()), daemon=True)
    asked.start()
    asked.join(_NAME_S)
    return frozenset(names) - {""}


class Hosts:
    """The allow-list. ``listen`` adds this machine's own names, and the address on which a connection arrived."""

    def __init__(self, allowed: Iterable[str], *, listen: bool) -> None:
        given = {name.strip().lower() for name in allowed}
        self._any = "*" in given
        self._listen = listen
        self._names = LOOPBACK | {host_name(name) or name for name in given} | (own_names() if listen else frozenset())

    def check_host(self, hosts: list[str], arrived_at: str) -> str:
        """Return the one Host header if it names this server. ``arrived_at`` is the local address of the connection.

        Raises:
            Denied: 421; the request was meant for somebody else.
        """
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name and (self._any or name in self._names or (self._listen and _same_address(name, arrived_at))):
            return hosts[0]
        raise Denied(HTTPStatus.MISDIRECTED_REQUEST, "guard.host", host=name or "?")


def check_origin(origin: str | None, *, scheme: str, host: str) -> None:
    """Let requests through that name no origin or exactly ours, port included.

    Raises:
        Denied: 403; another site's page sent it.
    """
    if origin is not None and _plain(origin) != _plain(f"{scheme}://{host}"):
        raise Denied(HTTPStatus.FORBIDDEN, "guard.origin", origin=origin[:200])


def check_fetch_site(site: str | None, *, opens_page: bool) -> None:
    """Let other sites link to the page and do nothing else. ``site`` is absent from old browsers and from programs.

    Raises:
        Denied: 403; another site's page sent it.
    """
    if site not in {None, "same-origin", "none"} and not opens_page:
        raise Denied(HTTPStatus.FORBIDDEN, "guard.origin", origin=str(site)[:200])


def network_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 that one IPv6 customer gets."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return address


def is_loopback(address: str) -> bool:
    """Tell whether a client sits on this machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _plain(origin: str) -> str:
    scheme, _, rest = origin.lower().partition("://")
    return f"{scheme}://{rest.removesuffix(':' + _DEFAULT_PORT.get(scheme, ''))}"


def _same_address(one: str, other: str) -> bool:
    try:
        left, right = ipaddress.ip_address(one), ipaddress.ip_address(other)
    except ValueError:
        return False
    return left == right or getattr(right, "ipv4_mapped", None) == left
