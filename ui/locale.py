"""Writes into the page, before it wakes up, the visitor's language (``<html lang>``, title, ``navigator.language``) and
the tab it opens with.

gradio chooses its own words by ``navigator.language`` alone and knows only exact tags, so that is set from the
visitor's choice (cookie) or from what the browser asks for. Knows nothing about gradio or about what the page shows.
"""

import asyncio
import gzip
import json
import re
from collections.abc import Callable
from html import escape

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.text import pick_language, say

COOKIE = "lang"
_HEAD = re.compile(rb"<head[^>]*>", re.IGNORECASE)
_HTML = re.compile(rb"<html[^>]*>", re.IGNORECASE)
# Cards for social networks, with gradio's own words and an address of somebody else's server.
_SOCIAL = re.compile(rb"<meta\s+(?:property|name)=\"(?:og|twitter):[^>]*>", re.IGNORECASE)
_TELL = (
    b"<script>Object.defineProperty(navigator,'language',{get:()=>LANGUAGE});"
    b"Object.defineProperty(navigator,'languages',{get:()=>[LANGUAGE]})</script>"
)
TITLE = "cria-page-title"  # what stands in the page wherever its title belongs
FIRST_TAB = "cria-first-tab"  # what stands in it where the name of its first tab belongs


def localised(page: bytes, language: str, first_tab: str) -> bytes:
    """Return the page in one language: attributes and title changed, the browser told; and open at one of its tabs."""
    script = _TELL.replace(b"LANGUAGE", json.dumps(language).encode())
    page = page.replace(FIRST_TAB.encode(), first_tab.encode())
    page = _SOCIAL.sub(b"", page).replace(TITLE.encode(), escape(say(language, "ui.title")).encode())
    page = _HTML.sub(lambda _: f'<html lang="{language}">'.encode(), page, count=1)
    return _HEAD.sub(lambda found: found[0] + script, page, count=1)


class PageLanguage:
    """Middleware that passes everything through but the page itself. ``first_tab`` may read files."""

    def __init__(self, app: ASGIApp, first_tab: Callable[[], str]) -> None:
        self._app, self._first_tab = app, first_tab

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) not in {"", "/"}:
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope)
        chosen = cookie_parser(asked.get("cookie", "")).get(COOKIE)
        language = pick_language(chosen, asked.get("accept-language"))
        # Asked for uncompressed, because it is rewritten here; compressed again below.
        inner = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]}
        squeeze = "gzip" in asked.get("accept-encoding", "")
        first = await asyncio.to_thread(self._first_tab)
        await self._app(inner, receive, _Rewriter(send, language, first, squeeze=squeeze))


class _Rewriter:
    """Holds back a page until it is whole, then sends it in the visitor's language."""

    def __init__(self, send: Send, language: str, first_tab: str, *, squeeze: bool) -> None:
        self._send, self._language, self._first_tab, self._squeeze = send, language, first_tab, squeeze
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if "text/html" in Headers(raw=message["headers"]).get("content-type", ""):
                self._start = message
                return
        elif self._start is not None and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._finish(self._start)
            return
        await self._send(message)

    async def _finish(self, start: Message) -> None:
        page = localised(bytes(self._body), self._language, self._first_tab)
        headers = MutableHeaders(raw=list(start["headers"]))
        if self._squeeze:
            page = gzip.compress(page, 5)
            headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(page))
        headers["vary"] = "accept-encoding, accept-language, cookie"
        headers["cache-control"] = "no-store"
        await self._send({**start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": page})
