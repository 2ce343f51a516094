"""Listing one file at a plain address: its length and what the server knows it by. Knows nothing about fetching."""

import hashlib
import re
from urllib.parse import unquote, urlsplit

from backend.errors import SourceError
from backend.sources.listing import SIZE_LIMIT, Listing, RemoteFile
from backend.sources.ranges import strong_etag
from backend.sources.refusals import refusal
from backend.sources.spec import WebFile
from backend.sources.wire import Session

_TOTAL = re.compile(r"bytes 0-0/(\d{1,15})")


def list_web(wanted: WebFile, *, session: Session) -> Listing:
    """Return the one file at an address, after asking for its first byte.

    Raises:
        SourceError: it is not there, it is a page, or the server does not say how long it is.
        Trouble: no answer.
    """
    link = urlsplit(wanted.url)
    host, name = link.netloc, _name(link.path)
    reply = session.get(wanted.url, {"Range": "bytes=0-0"})
    try:
        if reply.status not in (200, 206):
            shown = f"{link.scheme}://{host}{link.path}"
            raise refusal(reply.status, None, host=host, repository=name, page=shown, has_token=False)
        if (reply.header("Content-Type") or "").lower().startswith("text/html"):
            raise SourceError("download.page", host=host, file=name, what="text/html")
        span = _TOTAL.fullmatch((reply.header("Content-Range") or "").strip())
        length = span[1] if span else reply.header("Content-Length") if reply.status == 200 else None
        if length is None or not length.isdecimal() or not 0 < int(length) <= SIZE_LIMIT:
            raise SourceError("download.no_length", host=host, file=name)
        etag = strong_etag(reply.header)
    finally:
        reply.close()
    file = RemoteFile(name, int(length), wanted.url, sha256=wanted.sha256, etag=etag)
    stands_for = hashlib.sha1(f"{wanted.url}\n{length}\n{file.identity}".encode(), usedforsecurity=False)
    place = re.sub(r"[^A-Za-z0-9.-]", "-", host)[:80]
    return Listing("web", f"{place}/{name}", stands_for.hexdigest(), f"{link.scheme}://{host}", (file,))


def _name(path: str) -> str:
    """Return a file name for an address: its last part, as far as that can be one; what it ends in tells its kind."""
    last = re.sub(r"[^A-Za-z0-9._-]", "-", unquote(path).rpartition("/")[2])[-100:]
    stem, dot, ending = last.partition(".")
    return f"{stem.lstrip('-_') or 'file'}{dot}{ending}"
