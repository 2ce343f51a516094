"""A request, and the answer that a correct server gives: whole files, ranges, conditions. Knows nothing about sockets.

Ranges and conditions follow RFC 9110, sections 13.1.5 and 14.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.hub.content import Content, Literal

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class Request:
    """What was asked for. ``origin`` is the host and port it was asked of; header names are in small letters."""

    method: str
    origin: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        """The path as it was sent, still quoted."""
        return urlsplit(self.target).path

    @property
    def parts(self) -> list[str]:
        """The path's parts, unquoted."""
        return [unquote(part) for part in self.path.split("/")[1:]]

    @property
    def query(self) -> dict[str, str]:
        """The fields behind the question mark."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def token(self) -> str:
        """The bearer token, or nothing."""
        return self.headers.get("authorization", "").removeprefix("Bearer ").strip()


@dataclass(frozen=True)
class Answer:
    """What to send. The fields behind ``body`` are for faults; a correct answer leaves them alone.

    ``kind`` is what was answered: ``info``, ``tree``, ``head``, ``link`` (a redirect to the bytes), ``file``, ``none``.
    ``start`` and ``stop`` are the part of ``body`` that is sent. After ``until`` bytes of it ``ending`` happens.
    """

    kind: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Content = field(default_factory=lambda: Literal(b""))
    start: int = 0
    stop: int = 0
    etag: str = ""
    until: int | None = None
    ending: str = ""  # cut, reset, or stall
    pause: float = 0.0  # seconds of a stall
    rate: float = 0.0  # bytes a second; 0 is as fast as it goes
    wait: float = 0.0  # seconds before anything is sent
    declared: int = 0  # how many bytes too many Content-Length promises

    def having(self, headers: Mapping[str, str] | None = None, **changes: Any) -> "Answer":
        """Return the answer with some headers and fields changed."""
        return replace(self, headers={**self.headers, **(headers or {})}, **changes)


def whole(kind: str, status: int, data: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer with a body that is at hand."""
    return Answer(kind, status, dict(headers or {}), Literal(data), 0, len(data))


def as_json(kind: str, data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer with JSON in it."""
    typed = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    return whole(kind, status, json.dumps(data).encode(), typed)


def as_file(request: Request, content: Content, etag: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a file or the range of it that was asked for."""
    common = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **(headers or {})}
    if etag:
        common["ETag"] = etag
    answer = Answer("file", 200, common, content, 0, content.size, etag)
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    condition = request.headers.get("if-range")
    if request.method != "GET" or not asked or asked[0] == "bytes=-" or condition not in (None, etag):
        return answer
    first, last = asked.groups()
    if first:
        start, stop = int(first), min(int(last) + 1 if last else content.size, content.size)
    else:
        start, stop = max(content.size - int(last), 0), content.size
    if start >= stop:
        return whole("file", 416, headers={"Content-Range": f"bytes */{content.size}"})
    span = f"bytes {start}-{stop - 1}/{content.size}"
    return answer.having({"Content-Range": span}, status=206, start=start, stop=stop)
