"""``/metrics``: what it says, in a format that a parser reads back, and who may read it."""

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from backend.api import build_metrics
from backend.engines.base import EngineOptions, EngineState, EngineStatus
from backend.engines.exposition import Family, exposition
from backend.engines.line import Line
from backend.engines.tally import Histogram
from backend.guard import Guard
from backend.hardware import Gpu
from backend.jobs.view import JobState
from backend.settings import Settings
from tests.backend.api.fake import ask
from tests.backend.engines.conftest import machine
from tests.backend.guard.wire import AWAY, HERE, send_raw

# Sample lines of the text format, version 0.0.4.
_LINE = re.compile(
    r'(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (?P<value>\S+)'
)


def parsed(text: str) -> dict[str, float]:
    """Return sample -> value; every line must be a comment or a sample, and every family announced once."""
    assert text.endswith("\n")
    samples: dict[str, float] = {}
    announced: list[str] = []
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            announced.append(line.split()[2])
        elif not line.startswith("# HELP "):
            found = _LINE.fullmatch(line)
            assert found, line
            name = re.sub("_(bucket|sum|count)$", "", found["name"])
            assert announced[-1] in {name, found["name"]}
            key = line.rpartition(" ")[0]
            assert key not in samples
            samples[key] = float(found["value"])
    assert len(announced) == len(set(announced))
    return samples


def test_the_format() -> None:
    hostile = 'a"b\\c\nd \ud800'
    families = [Family("jobs", "gauge", (({"state": hostile, "x": ""}, 1.5),)), Family("model_loaded", "gauge", ())]
    text = exposition(families, {"queue_seconds": Histogram().with_value(0.06).with_value(1e9)})
    samples = parsed(text)
    assert samples['cria_jobs{state="a\\"b\\\\c\\nd ?",x=""}'] == 1.5
    buckets = [value for key, value in samples.items() if "_bucket" in key]
    assert buckets == sorted(buckets)
    assert samples['cria_queue_seconds_bucket{le="+Inf"}'] == samples["cria_queue_seconds_count"] == 2
    assert samples['cria_queue_seconds_bucket{le="0.05"}'] == 0
    assert samples['cria_queue_seconds_bucket{le="0.1"}'] == 1
    assert samples["cria_queue_seconds_sum"] == 1e9 + 0.06


def services(**settings: Any) -> Any:
    line = Line()
    line.tally.reply("chat", "stop", 7)
    line.tally.refused("429")
    options = EngineOptions(engine="transformers")
    status = EngineStatus(EngineState.READY, "toy", options, active=2, tokens_per_s=12.5, restarts=1, cache_used=64)
    hardware = machine(5, 6)
    return SimpleNamespace(
        settings=Settings(data_dir=Path("unused"), **settings),
        line=line,
        engine=SimpleNamespace(status=lambda: status),
        hardware=lambda: hardware,
        jobs=SimpleNamespace(views=lambda: (SimpleNamespace(state=JobState.DONE),) * 2),
    )


def app_of(made: Any) -> FastAPI:
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    web.include_router(build_metrics(made))
    return web


def read(guard: Guard, client: str, bearer: str) -> int:
    """Return the status that a reader gets."""
    headers = {"host": "localhost:7860"} | ({"authorization": f"Bearer {bearer}"} if bearer else {})
    return asyncio.run(send_raw(guard, "GET", "/metrics", headers, [b""], client=client)).status


def test_the_figures() -> None:
    answer = ask(app_of(services()), "GET", "/metrics", headers={"x-cria-admin": "1"})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = parsed(answer.text)
    expected = {
        'cria_engine_state{state="ready"}': 1,
        'cria_engine_state{state="off"}': 0,
        'cria_model_loaded{model="toy",engine="transformers",bits="16"}': 1,
        "cria_engine_active": 2,
        "cria_engine_tokens_per_second": 12.5,
        "cria_engine_restarts": 1,
        "cria_engine_cache_used_tokens": 64,
        "cria_tokens_total": 7,
        'cria_replies_total{kind="chat",finish="stop"}': 1,
        'cria_refused_total{reason="429"}': 1,
        'cria_gpu_free_bytes{gpu="1",name="Card 1"}': 6,
        'cria_jobs{state="done"}': 2,
    }
    assert {name: samples.get(name) for name in expected} == expected
    assert isinstance(services().hardware().gpus[0], Gpu)


@pytest.mark.parametrize(
    ("client", "bearer", "status"),
    [
        (HERE, "", 401),
        (HERE, "the-key", 200),
        (AWAY, "", 401),
        (AWAY, "the-key", 200),
        (AWAY, "the-token", 200),
        (AWAY, "wrong", 401),
    ],
)
def test_who_may_read_it_on_a_shared_server(client: str, bearer: str, status: int) -> None:
    made = services(listen=True, admin_token="the-token", api_key="the-key", allow_hosts=("*",))
    guard = Guard(app_of(made), made.settings, tally=made.line.tally)
    assert read(guard, client, bearer) == status


def test_where_everybody_is_the_administrator_nobody_is_asked() -> None:
    made = services()
    assert read(Guard(app_of(made), made.settings), HERE, "") == 200


def test_guessing_the_token_here_is_slowed_down_like_anywhere() -> None:
    made = services(listen=True, admin_token="the-token", allow_hosts=("*",))
    guard = Guard(app_of(made), made.settings, tally=made.line.tally)
    answers = [read(guard, AWAY, "wrong") for _ in range(7)]
    assert answers[0] == 401
    assert answers[-1] == 429
    assert made.line.tally.counts().refused["429"] > 1
