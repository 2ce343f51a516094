"""What an answer to a request for a range really holds. Pure; the rules are those of RFC 9110, sections 14 and 15."""

import re
from collections.abc import Callable

from backend.errors import SourceError
from backend.sources.trouble import Trouble

Header = Callable[[str], str | None]
_SPAN = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


def body_start(status: int, header: Header, start: int, stop: int, *, size: int, host: str, file: str) -> int:
    """Return the position of the body's first byte in a file of ``size`` bytes: ``start``, or 0 for a whole file.

    Raises:
        Trouble: the body is not what was asked for: another range, another length, packed, or a page.
    """

    def wrong(key: str, what: str) -> Trouble:
        return Trouble(SourceError(key, host=host, file=file, what=what[:120]), strike=True)

    kind = (header("Content-Type") or "").lower()
    if kind.startswith(("text/html", "application/xhtml")) and not file.endswith(".html"):
        raise wrong("download.page", kind)
    packing = (header("Content-Encoding") or "identity").lower()
    if packing != "identity":
        raise wrong("download.wrong_reply", f"Content-Encoding {packing}")
    length = header("Content-Length")
    if status == 200 and not header("Content-Range"):  # with it, it is a range all the same: so does ModelScope
        if length is not None and length.strip() != str(size):
            raise wrong("download.wrong_reply", f"Content-Length {length}, expected {size}")
        return 0
    span = _SPAN.fullmatch((header("Content-Range") or "").strip())
    if not span or int(span[3]) != size or int(span[1]) != start or not start <= int(span[2]) < stop:
        asked = f"bytes {start}-{stop - 1}/{size}"
        raise wrong("download.wrong_reply", f"Content-Range {header('Content-Range')}, expected {asked}")
    if length is not None and length.strip() != str(int(span[2]) + 1 - start):
        raise wrong("download.wrong_reply", f"Content-Length {length} for {span[0]}")
    return start


def strong_etag(header: Header) -> str | None:
    """Return an answer's ETag if it promises the same bytes and not only the same meaning."""
    etag = (header("ETag") or "").strip()
    return etag if re.fullmatch(r'"[\x21\x23-\x7e]{1,200}"', etag) else None
