"""The page arrives in the visitor's language, and nothing else is touched."""

import gzip
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ui.locale import FIRST_TAB, TITLE, PageLanguage, localised

PAGE = (
    "<!doctype html><html lang='en'><head data-x><title>" + TITLE + "</title>"
    '<meta property="og:image" content="https://elsewhere.example/x.jpg" /><meta\n name="twitter:title" content="G" />'
    '</head><body>{"title":"' + TITLE + '","selected":"' + FIRST_TAB + '"}</body></html>'
)


def client(**options: Any) -> TestClient:
    def page(request: Any) -> HTMLResponse:
        assert "accept-encoding" not in request.headers
        return HTMLResponse(PAGE)

    async def stream(request: Any) -> StreamingResponse:
        async def parts() -> Any:
            yield PAGE
            yield "tail"

        return StreamingResponse(parts(), media_type="text/html")

    def other(request: Any) -> PlainTextResponse:
        return PlainTextResponse(request.headers.get("accept-encoding", "none"))

    routes = [Route("/", page), Route("/other", other), Route("/stream", stream)]
    app = Starlette(routes=routes)
    app.add_middleware(PageLanguage, first_tab=lambda: "chat")
    return TestClient(app, **options)


@pytest.mark.parametrize(
    ("headers", "language", "title"),
    [
        ({}, "en", "from raw weights"),
        ({"accept-language": "zh-HK"}, "zh-TW", "從原始權重"),
        ({"accept-language": "zh"}, "zh-CN", "从原始权重"),
        ({"accept-language": "zh", "cookie": "lang=en"}, "en", "from raw weights"),
        ({"cookie": "lang=../../etc"}, "en", "from raw weights"),
    ],
)
def test_language_title_and_navigator(headers: dict[str, str], language: str, title: str) -> None:
    text = client().get("/", headers=headers).text
    assert f'<html lang="{language}"><head data-x><script>' in text
    assert f'get:()=>"{language}"' in text
    assert text.count(title) == 2
    assert TITLE not in text
    assert '"selected":"chat"' in text
    assert "elsewhere" not in text
    assert "twitter" not in text


def test_it_is_compressed_for_those_who_can_read_that() -> None:
    with client().stream("GET", "/", headers={"accept-encoding": "br, gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) == len(raw)
    assert b"<html lang=" in gzip.decompress(raw)
    assert "content-encoding" not in client().get("/", headers={"accept-encoding": "identity"}).headers


def test_everything_else_passes_untouched() -> None:
    assert client().get("/other", headers={"accept-encoding": "br"}).text == "br"
    assert client().get("/stream").text == PAGE + "tail"
    assert client().get("/nowhere").status_code == 404


def test_below_a_proxys_prefix() -> None:
    assert '<html lang="zh-CN">' in client(root_path="/llm").get("/", headers={"accept-language": "zh"}).text


def test_only_the_first_head_is_changed() -> None:
    page = localised(b"<html><head></head><body><head>&lt;html&gt;</body></html>", "en", "setup")
    assert page.count(b"<script>") == 1
