"""The list of open routes against the routes that this gradio really has, so that a new one is noticed (S5, S9)."""

import json
import re
import subprocess
import sys

import pytest

from backend.guard.routes import Kind, kind_of

OPEN = {
    "/", "/assets/{path:path}", "/static/{path:path}", "/favicon.ico", "/theme.css", "/robots.txt", "/manifest.json",
    "/gradio_api/app_id", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/queue/data", "/gradio_api/queue/join",
    "/gradio_api/run/{api_name}", "/gradio_api/run/{api_name}/",
}  # fmt: skip


# In a process of its own: importing gradio leaves open loops and sockets behind.
WALK = """
import json
import gradio as gr
from fastapi import FastAPI

web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
with gr.Blocks(analytics_enabled=False) as page:
    gr.Chatbot()
    gr.Timer(1).tick(lambda: None)
page.queue(api_open=False)
gr.mount_gradio_app(web, page, path="/", footer_links=[], run_history=False, enable_monitoring=False)
found = set()

def walk(some):
    for route in some:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inner, "routes"):
            walk(inner.routes)
        elif hasattr(route, "path"):
            found.add(route.path)

walk(web.routes)
print(json.dumps(sorted(found)))
"""


@pytest.fixture(scope="module")
def routes() -> set[str]:
    """Return every path of a gradio app mounted as ours is."""
    done = subprocess.run([sys.executable, "-c", WALK], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_page_has_the_routes_that_are_open(routes: set[str]) -> None:
    assert len(routes) > 60  # the walk found them all, also those behind an included router
    assert routes >= OPEN


def test_every_other_route_is_shut(routes: set[str]) -> None:
    filled = {route: re.sub(r"\{[^}]*\}", "x", route) for route in routes}
    assert {route for route, path in filled.items() if kind_of(path) is not Kind.OFF} == OPEN
