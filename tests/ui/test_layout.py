"""The whole page as gradio sees it: what must hold for every event and component, whatever tab they are in."""

import asyncio
import os
import subprocess
import sys
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from gradio import blocks
from gradio.state_holder import StateHolder

from backend.conversations import Conversations
from backend.engines.base import EngineOptions
from backend.engines.supervisor import Supervisor
from backend.jobs.manager import JobManager
from backend.services import Services
from backend.settings import ROOT, Settings
from ui.compat import MAX_RUNNING, MAX_SESSIONS, open_queue, skip_for_good
from ui.layout import build_ui
from ui.mount import mount_page, prepare_environment, stylesheets


@pytest.fixture
def services(settings: Settings) -> Services:
    return Services(
        settings=settings,
        jobs=JobManager(settings.data_dir),
        engine=Supervisor(settings.logs_dir),
        conversations=Conversations(settings.database),
        options=EngineOptions(),
    )


@pytest.fixture
def config(services: Services) -> dict[str, Any]:
    async def lay_out() -> dict[str, Any]:
        demo = build_ui(services)
        open_queue(demo)
        return demo.get_config_file()

    return asyncio.run(lay_out())


def test_no_event_is_public_and_none_calls_a_permanent_connection(config: dict[str, Any]) -> None:
    assert len(config["dependencies"]) > 15
    for event in config["dependencies"]:
        assert event["api_visibility"] == "private", event["api_name"]
        assert "unload" not in [name for _, name in event["targets"]]
    assert not [one for one in config["components"] if one["type"] == "state"]


def test_what_a_load_would_change_stands_beside_its_button(config: dict[str, Any]) -> None:
    def ids(node: dict[str, Any]) -> list[str]:
        own = names.get(node["id"])
        return [*([own] if own else []), *(name for child in node.get("children", []) for name in ids(child))]

    names = {one["id"]: one["props"].get("elem_id") for one in config["components"]}
    order = ids(config["layout"])
    assert order.index("unload") + 1 == order.index("reload")
    assert "delete-model" not in order  # models are deleted in their own tab


def test_the_chatbot_is_never_an_input(config: dict[str, Any]) -> None:
    chat = next(one["id"] for one in config["components"] if one["type"] == "chatbot")
    assert not [event["api_name"] for event in config["dependencies"] if chat in event["inputs"]]


def test_an_older_notice_goes_when_something_is_pressed_and_no_answer_takes_one_away(config: dict[str, Any]) -> None:
    notice = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == "notice")
    saying = [event for event in config["dependencies"] if notice in event["outputs"]]
    loading = [event for event in saying if "load" in [name for _, name in event["targets"]]]
    ticking = [event for event in saying if "tick" in [name for _, name in event["targets"]]]
    hushing = [event for event in config["dependencies"] if "#notice" in str(event["js"])]
    assert len(loading) >= 3
    assert len(hushing) >= 15
    assert len(ticking) == 1  # that another window loads something else is said when it is seen
    assert [event["id"] for event in saying if event not in [*loading, *ticking]] == [event["id"] for event in hushing]
    presses = [tuple(target) for event in hushing for target in event["targets"]]
    assert len(presses) == len(set(presses)), "the second event of a press would take away what the first one says"


def test_timers_never_queue(config: dict[str, Any]) -> None:
    ticking = [event for event in config["dependencies"] if "tick" in [name for _, name in event["targets"]]]
    assert len(ticking) >= 2
    assert not [event["api_name"] for event in ticking if event["queue"]]


def test_every_input_has_a_label(config: dict[str, Any]) -> None:
    kinds = {"textbox", "dropdown", "radio", "slider", "number"}
    nameless = [
        one["props"].get("elem_id")
        for one in config["components"]
        if one["type"] in kinds and one["props"].get("visible") and not one["props"].get("label")
    ]
    assert not nameless


def test_what_is_skipped_is_left_alone_and_what_is_told_is_sent() -> None:
    skip_for_good()
    skip_for_good()  # once is enough
    html = gr.HTML(render=False)
    assert blocks.postprocess_update_dict(html, dict(gr.skip())) == {"__type__": "update"}
    told = blocks.postprocess_update_dict(html, {"value": "x", "visible": True, "__type__": "update"})
    assert told == {"value": "x", "visible": True, "__type__": "update"}


def test_the_queue_is_wide_bounded_and_calm() -> None:
    async def opened() -> Any:
        with gr.Blocks(analytics_enabled=False) as demo:
            gr.Button()
        open_queue(demo)
        return demo

    demo = asyncio.run(opened())
    queue = demo._queue
    # If one of these fails after an upgrade, ui/compat.py no longer reaches what it means to set.
    assert (queue.sleep_when_free, queue.progress_update_sleep_when_free) == (0.02, 0.05)
    assert queue.max_thread_count == MAX_RUNNING
    holder = StateHolder()
    holder.set_blocks(demo)
    for number in range(MAX_SESSIONS + 5):
        assert holder[f"page {number}"] is not None
        assert holder["page 0"] is not None  # in use all the time
    assert len(holder.session_data) == MAX_SESSIONS
    assert "page 0" in holder
    assert queue.max_size
    assert demo.api_open is False


def test_a_gradio_without_the_private_parts_is_left_alone() -> None:
    class Other:
        def queue(self, **settings: Any) -> None:
            self.settings = settings

    other = Other()
    open_queue(other)
    assert other.settings["api_open"] is False
    assert not hasattr(other, "_queue")


def test_the_mounted_page(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_RUN_HISTORY",
                 "GRADIO_ANALYTICS_CACHE_FREQUENCY", "GRADIO_ANALYTICS_MAX_EVENTS"):  # fmt: skip
        monkeypatch.setenv(name, "restored after the test")
    prepare_environment(services.settings)
    assert os.environ["GRADIO_TEMP_DIR"].startswith(str(services.settings.temp_dir))
    app = FastAPI()

    @app.get("/health")
    def health() -> str:
        return "well"

    async def mounted() -> None:
        mount_page(app, services)

    asyncio.run(mounted())
    client = TestClient(app)
    page = client.get("/", headers={"accept-language": "zh-TW"}).text
    assert '<html lang="zh-TW">' in page
    assert "window.cria" in page
    assert "raw.githubusercontent" not in page
    assert client.get("/health").text == '"well"'
    icon = client.get("/favicon.ico")
    assert icon.headers["content-type"] == "image/svg+xml"
    styles = ["chat.css", "loras.css", "models.css", "page.css", "setup.css", "wizard.css"]
    assert [path.name for path in stylesheets()] == styles


def test_importing_the_mount_imports_neither_gradio_nor_torch() -> None:
    code = "import sys, ui.mount; print([name for name in ('gradio', 'torch') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
