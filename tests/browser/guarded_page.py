"""A small gradio page with everything the real one relies on, behind the guard.

Run it with ``python -m tests.browser.guarded_page PORT [TOKEN]``.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI

from backend.guard import Guard
from backend.settings import Settings

STATE = {"ticks": 0, "started": 0, "ended": 0, "pieces": 0}


def tick() -> str:
    STATE["ticks"] += 1
    return f"tick {STATE['ticks']}"


async def stream(text: str) -> AsyncIterator[list[dict[str, Any]]]:
    STATE["started"] += 1
    said = {"role": "user", "content": [{"type": "text", "text": text}]}
    reply = ""
    try:
        for number in range(400):
            reply += f"word{number} "
            STATE["pieces"] = number
            yield [said, {"role": "assistant", "content": [{"type": "text", "text": reply}]}]
            await asyncio.sleep(0.05)
    finally:
        STATE["ended"] += 1


def who(request: gr.Request) -> str:
    headers = dict(request.headers)
    return f"visitor {headers['x-cria-visitor'][:12]} admin {headers['x-cria-admin']} cookies {dict(request.cookies)}"


def build() -> gr.Blocks:
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    page = gr.Blocks(title="Guarded", analytics_enabled=False)
    with page:
        gr.Markdown("# Guarded")
        with gr.Walkthrough(selected=0, elem_id="walk") as walk:
            with gr.Step("First", id=0):
                forward = gr.Button("Go on", elem_id="forward")
            with gr.Step("Second", id=1):
                gr.Markdown("Here is the second step", elem_id="second")
        counter = gr.Textbox(label="Counter", elem_id="counter")
        facts = gr.Textbox(label="Facts", elem_id="facts")
        scripted = gr.Textbox(label="Scripted", elem_id="scripted")
        chat = gr.Chatbot(elem_id="chat")
        box = gr.Textbox(label="Say", elem_id="box")
        stop = gr.Button("Stop", elem_id="stop")
        script = gr.Button("Script", elem_id="script")
        ask = gr.Button("Who", elem_id="who")
        gr.HTML("<b>bold</b>", js_on_load="element.dataset.loaded = '1'", elem_id="html")
        gr.Timer(0.3).tick(tick, None, counter, queue=False, **private)
        forward.click(lambda: gr.Walkthrough(selected=1), None, walk, queue=False, **private)
        running = box.submit(stream, box, chat, **private)
        stop.click(None, None, None, cancels=[running], queue=False, **private)
        script.click(None, None, scripted, js="() => 'ran in the browser'", **private)
        ask.click(who, None, facts, queue=False, **private)
        page.load(who, None, facts, queue=False, **private)
    page.queue(api_open=False)
    return page


def main(port: int, token: str) -> None:
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @web.get("/health")
    def health() -> dict[str, int]:
        return STATE

    gr.mount_gradio_app(web, build(), path="/", footer_links=[], run_history=False, enable_monitoring=False)
    guard = Guard(web, Settings(data_dir=Path("unused"), port=port, admin_token=token, listen=bool(token)))
    uvicorn.run(guard, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
