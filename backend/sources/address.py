"""Web addresses as they are sent, and where a redirect may lead. Pure; knows nothing about sockets."""

from urllib.parse import quote, urljoin, urlsplit

from backend.errors import SourceError
from backend.sources.trouble import Trouble

_AS_IT_IS = "!#$%&'()*+,/:;=?@[]~"  # reserved in an address (RFC 3986), and the sign of what is encoded already


def in_ascii(url: str) -> str:
    """Return an address as it is sent: its host in IDNA, what else is not ASCII as percent-encoded UTF-8 (RFC 3987).

    What is encoded already stays as it is.

    Raises:
        Trouble: the host is no name.
    """
    link = urlsplit(url)
    user, at, host = link.netloc.rpartition("@")
    try:
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as problem:
        error = SourceError("download.unreachable", host=host, what=str(problem)[:200])
        raise Trouble(error, hopeless=True) from problem
    path, query = quote(link.path, safe=_AS_IT_IS), quote(link.query, safe=_AS_IT_IS)
    return link._replace(netloc=f"{user}{at}{host}", path=path, query=query).geturl()


def led(url: str, location: str) -> str:
    """Return where a redirect leads. ``location`` has a character for each byte, as Python's HTTP client has it.

    Raises:
        Trouble: nobody may be led there.
    """
    try:
        location = location.encode("latin-1").decode("utf-8")
    except UnicodeError:
        location = quote(location, safe=_AS_IT_IS, encoding="latin-1")
    target = in_ascii(urljoin(url, location))
    here, there = urlsplit(url), urlsplit(target)
    if there.scheme not in ("http", "https") or (here.scheme, there.scheme) == ("https", "http"):
        shown = f"{there.scheme}://{there.hostname}"
        raise Trouble(SourceError("download.redirect_bad", host=here.netloc, target=shown[:120]), hopeless=True)
    return target
