"""HTTP requests for bytes: one session per thread, connections kept, redirects followed, proxies honoured.

Built on the standard library's client, which hands over the socket's bytes without copying them about. Rules kept here:
a token goes to the origin it was given for and to no other; a redirect leads neither from https to http nor, from a
public server, to a private address; nothing is asked for in compressed form. Knows nothing about files or retries.
"""

import contextlib
import http.client
import ipaddress
import json
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlsplit

from backend.errors import SourceError
from backend.sources.address import in_ascii, led
from backend.sources.proxy import blocked, proxy_headers, proxy_of
from backend.sources.trouble import Stopped, Trouble

_REDIRECTS = (301, 302, 303, 307, 308)
_HOPS = 10
_CONNECT_S = 15.0
_AGENT = "cria"
_KEPT = 4  # connections a session keeps open: a hub and its CDN need two


@dataclass(frozen=True)
class Token:
    """A secret and the origin (scheme://host[:port]) that it may be sent to."""

    origin: str
    secret: str

    def __repr__(self) -> str:
        return f"Token({self.origin})"


def token_for(endpoint: str, tokens: Iterable[Token]) -> Token | None:
    """Return the token that was given for a server, if one was."""
    return next((token for token in tokens if origin_of(token.origin) == origin_of(endpoint)), None)


def origin_of(url: str) -> str:
    """Return scheme://host:port of an address."""
    link = urlsplit(url)
    port = link.port or (443 if link.scheme == "https" else 80)
    return f"{link.scheme}://{(link.hostname or '').lower()}:{port}"


class Reply:
    """An answer whose body is still to be read. ``url`` is where it came from in the end."""

    def __init__(self, raw: http.client.HTTPResponse, url: str, drop: Callable[[], None]) -> None:
        self._raw, self.url, self._drop = raw, url, drop
        self.status = raw.status
        self.header: Callable[[str], str | None] = raw.headers.get

    def read(self, count: int) -> bytes:
        """Return up to ``count`` bytes as soon as there are some; nothing at the end.

        Raises:
            OSError, http.client.HTTPException: the connection failed.
        """
        return self._raw.read1(count)

    def read_into(self, view: memoryview) -> int:
        """Read as ``read`` does, into memory that is there already; return how many bytes came."""
        length = self._raw.length
        if length is None:  # in chunks, or until the connection ends
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)
        count = self._raw.fp.readinto1(view[: min(len(view), length)])
        self._raw.length = length - count
        return count

    def read_all(self, limit: int) -> bytes:
        """Return the body, of a longer one ``limit`` + 1 bytes, and be done with it."""
        data = b""
        while len(data) <= limit and (piece := self.read(limit + 1 - len(data))):
            data += piece
        self.close()
        return data

    def close(self) -> None:
        """Be done with it; a connection with unread bytes in it is not used again."""
        if self._raw.length == 0:
            self._raw.read()  # only this tells the library that the body has been read
        if not self._raw.isclosed():
            self._drop()


class Session:
    """Connections of one thread. ``abort`` may be called by another one and ends what is under way.

    ``proxies`` is as ``urllib.request.getproxies`` returns it; None: those of the usual environment variables.
    """

    def __init__(self, *, timeout_s: float, proxies: Mapping[str, str] | None = None) -> None:
        self._timeout_s = timeout_s
        self._proxies = proxies
        self._open: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._stopped = False

    def get(self, url: str, headers: Mapping[str, str] | None = None, *, token: Token | None = None) -> Reply:
        """Ask for an address and follow where it leads.

        Raises:
            Trouble: no answer, or a redirect that must not be followed.
            Stopped: ``abort`` was called.
        """
        url = in_ascii(url)
        first = urlsplit(url)
        for _ in range(_HOPS):
            guarded = urlsplit(url).hostname != first.hostname and not _is_private(first.hostname or "")
            reply = self._once(url, headers or {}, token, guarded=guarded)
            location = reply.header("Location")
            if reply.status not in _REDIRECTS or not location:
                return reply
            reply.close()
            url = led(url, location)
        raise Trouble(SourceError("download.redirects", host=first.netloc, count=_HOPS), hopeless=True)

    def get_json(self, url: str, *, token: Token | None, limit: int) -> tuple[int, Any]:
        """Return status and JSON of an answer; None for what is no JSON or longer than ``limit``. Raises as ``get``."""
        with blamed(urlsplit(url).netloc, self.stopped):
            reply = self.get(url, {"Accept": "application/json"}, token=token)
            data = reply.read_all(limit)
        if self._stopped:  # then the end may be missing
            raise Stopped
        try:
            return reply.status, json.loads(data) if len(data) <= limit else None
        except (ValueError, RecursionError):
            return reply.status, None

    def abort(self) -> None:
        """End what is under way, and let nothing new begin."""
        self._stopped = True
        for connection in list(self._open.values()):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def _once(self, url: str, headers: Mapping[str, str], token: Token | None, *, guarded: bool) -> Reply:
        link = urlsplit(url)
        if link.scheme not in ("http", "https") or not link.hostname:
            raise Trouble(SourceError("download.redirect_bad", host=link.netloc, target=url[:120]), hopeless=True)
        sent = {"User-Agent": _AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **headers}
        if token is not None and origin_of(url) == origin_of(token.origin):
            sent["Authorization"] = f"Bearer {token.secret}"
        with blamed(link.netloc, self.stopped):
            key = (link.scheme, link.netloc)
            used = key in self._open
            try:
                return self._send(key, link, sent, guarded=guarded)
            except (http.client.RemoteDisconnected, ConnectionError, http.client.CannotSendRequest):
                self._drop(key)
                if not used:  # a kept connection may have been closed by the server meanwhile: that is no failure
                    raise
                return self._send(key, link, sent, guarded=guarded)
            except BaseException:
                self._drop(key)
                raise

    def stopped(self) -> bool:
        """Tell whether ``abort`` was called."""
        return self._stopped

    def _send(self, key: tuple[str, str], link: SplitResult, headers: dict[str, str], *, guarded: bool) -> Reply:
        if self._stopped:
            raise Stopped
        proxy = proxy_of(link, self._proxies)
        if key not in self._open:
            while len(self._open) >= _KEPT:
                self._drop(next(iter(self._open)))
            self._open[key] = _connection(link, proxy, timeout_s=self._timeout_s, guarded=guarded)
        target = (link.path or "/") + (f"?{link.query}" if link.query else "")
        if proxy and link.scheme == "http":
            target = f"http://{link.netloc}{target}"
            headers = {**headers, **proxy_headers(proxy)}
        connection = self._open[key]
        used = connection.sock is not None
        try:
            connection.request("GET", target, headers=headers)
        except OSError as problem:
            if proxy and link.scheme == "https" and not used and (error := blocked(link.netloc, problem)):
                raise Trouble(error, strike=True) from problem
            raise
        return Reply(connection.getresponse(), link.geturl(), lambda: self._drop(key))

    def _drop(self, key: tuple[str, str]) -> None:
        connection = self._open.pop(key, None)
        if connection is not None:
            connection.close()


@contextlib.contextmanager
def blamed(host: str, stopped: Callable[[], bool] = lambda: False) -> Any:
    """Turn what goes wrong on the way into trouble with a sentence; after ``abort`` it is no trouble."""
    try:
        yield
    except (OSError, http.client.HTTPException, UnicodeError) as problem:
        if stopped():
            raise Stopped from problem
        if isinstance(problem, TimeoutError):
            raise Trouble(SourceError("download.silent", host=host)) from problem
        if isinstance(problem, ssl.SSLCertVerificationError):
            raise Trouble(SourceError("download.certificate", host=host, what=problem.verify_message)) from problem
        what = str(getattr(problem, "strerror", None) or problem or type(problem).__name__)[:200]
        raise Trouble(SourceError("download.unreachable", host=host, what=what)) from problem


def _connection(
    link: SplitResult, proxy: SplitResult | None, *, timeout_s: float, guarded: bool
) -> http.client.HTTPConnection:
    """Return a connection that is made when it is first used: to the server, or to the proxy in between."""
    host, port = link.hostname or "", link.port
    if guarded and proxy and _is_private_literal(host):
        raise Trouble(SourceError("download.private", host=host), hopeless=True)
    place = proxy or link
    kind = http.client.HTTPSConnection if link.scheme == "https" else http.client.HTTPConnection
    made = kind(place.hostname or "", place.port or (None if place is link else 80), timeout=timeout_s)
    if proxy and link.scheme == "https":
        made.set_tunnel(host, port or 443, headers=proxy_headers(proxy))
    # How the standard client makes its socket; only so can the address be looked at between finding and using it.
    dial = partial(_dial, timeout_s=timeout_s, guarded=guarded and not proxy)
    made._create_connection = lambda address, *_: dial(*address)  # type: ignore[attr-defined]
    return made


def _dial(host: str, port: int, *, timeout_s: float, guarded: bool) -> socket.socket:
    problem: OSError = OSError(f"no address for {host}")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if guarded and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global:
            raise Trouble(SourceError("download.private", host=host), hopeless=True)
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(min(_CONNECT_S, timeout_s))
            made.connect(address)
            made.settimeout(timeout_s)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as found:
            made.close()
            problem = found
        else:
            return made
    raise problem


def _is_private(host: str) -> bool:
    """Tell whether a name stands for a private address, as far as this machine can tell."""
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(str(row[4][0]).partition("%")[0]).is_global for row in found)


def _is_private_literal(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host.lower() == "localhost"
