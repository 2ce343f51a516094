"""The HTTP face that all engines share, seen through the echo engine."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from backend.engines.base import ChatMessage, EngineOptions, Finish, Sampling
from backend.engines.client import stream_chat
from backend.engines.echo import split_words
from backend.engines.generator import Readiness
from backend.engines.process import EngineProcess
from backend.engines.serve import arguments, options_from_json
from backend.engines.server_app import build_app
from backend.errors import ContextFull, CriaError, UsageError, WeightsError

LONG = "word " * 400


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    folder = tmp_path_factory.mktemp("echo") / "parrot"
    folder.mkdir()
    (folder / "cria.json").write_text('{"echo": {"words_per_s": 200}}')
    told = arguments(folder, EngineOptions(engine="echo", context=2000))
    started = EngineProcess("backend.engines.echo", told, model="parrot", gpus=None, logs=folder / "logs")
    with _client(started) as client:
        while client.get("/health").json()["state"] != "ready":
            time.sleep(0.01)
    yield started
    started.end()


def _client(process: EngineProcess) -> httpx.Client:
    return httpx.Client(base_url=process.endpoint.url, headers=process.endpoint.headers, timeout=20, trust_env=False)


def _body(text: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **more}


def _computed(client: httpx.Client) -> int:
    return int(client.get("/stats").json()["computed_tokens"])


def _stands_still(client: httpx.Client) -> bool:
    """Tell whether computing stops soon: nothing is active, and the count of computed tokens does not move."""
    end = time.monotonic() + 5
    while client.get("/stats").json()["active"] and time.monotonic() < end:
        time.sleep(0.01)
    before = _computed(client)
    time.sleep(0.1)  # twenty words
    return _computed(client) == before


@given(st.text(alphabet="ab 你好，。\n\t", max_size=30))
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(split_words(text)) == text


def test_options_travel_on_the_command_line() -> None:
    options = EngineOptions("echo", "cpu", 8, 2, (1, 0), 5, "float16", 77)
    told = arguments(Path("/m"), options)
    assert options_from_json(told[told.index("--options") + 1]) == options


def test_health_figures_and_models(process: EngineProcess) -> None:
    with _client(process) as client:
        health = client.get("/health").json()
        assert (health["state"], health["context"], health["error"]) == ("ready", 2000, None)
        assert health["placement"]["key"] == "engine.placement.echo"
        assert health["loaded_bytes"] == health["total_bytes"] > 0
        assert client.get("/stats").json()["rss_bytes"] > 1_000_000
        assert client.get("/v1/models").json()["data"][0]["id"] == "parrot"


@pytest.mark.parametrize("path", ["/health", "/stats", "/v1/models", "/v1/chat/completions"])
@pytest.mark.parametrize("key", ["", "Bearer wrong", "Basic eA==", "Bearer \N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_nothing_without_the_key(process: EngineProcess, path: str, key: str) -> None:
    headers = {"authorization": key.encode("latin-1")} if key else {}
    method = "POST" if path.endswith("completions") else "GET"
    reply = httpx.request(method, process.endpoint.url + path, headers=headers, json=_body("x"), trust_env=False)
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "engine.no_key"


def test_the_key_is_on_no_command_line_and_in_no_environment(process: EngineProcess) -> None:
    for name in ("cmdline", "environ"):
        assert process.endpoint.key.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
    assert process.endpoint.key not in repr(process.endpoint)


def test_a_whole_answer(process: EngineProcess) -> None:
    with _client(process) as client:
        answer = client.post("/v1/chat/completions", json=_body("one two", max_tokens=500)).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"].endswith("You said: one two")
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["prompt_tokens"] == 2
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_streamed_answer_in_openais_words(process: EngineProcess) -> None:
    with _client(process) as client:
        text = client.post("/v1/chat/completions", json=_body("你好", stream=True)).text
    *events, last, empty = text.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == len(chunks) - 1
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).endswith("你说的是：你好")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"messages": []}, "engine.bad_request"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "engine.bad_request"),
        (_body("x", temperature=-1), "engine.bad_request"),
        (_body("x", max_tokens=10**12), "engine.bad_request"),
        (_body(" \n "), "engine.empty_message"),
        (_body("w " * 2100), "engine.context_full"),
        ([1, 2], "engine.bad_request"),
    ],
)
def test_bad_requests_say_what_is_wrong(process: EngineProcess, body: object, code: str) -> None:
    with _client(process) as client:
        reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == code
    assert "{" not in reply.json()["error"]["message"]


def test_a_reply_ends_for_its_own_reason(process: EngineProcess) -> None:
    async def run(text: str, limit: int) -> tuple[Finish | None, int]:
        messages, sampling = [ChatMessage("user", text)], Sampling(max_new_tokens=limit)
        last = [piece async for piece in stream_chat(process.endpoint, messages, sampling)][-1]
        return last.finish, last.tokens

    assert asyncio.run(run("hi", 5)) == (Finish.LENGTH, 5)
    assert asyncio.run(run(("w " * 1990).strip(), 500)) == (Finish.CONTEXT, 10)
    assert asyncio.run(run("hi", 500))[0] is Finish.STOP


def test_the_client_raises_what_the_engine_says(process: EngineProcess) -> None:
    async def run(text: str) -> None:
        async for _ in stream_chat(process.endpoint, [ChatMessage("user", text)], Sampling()):
            pass

    with pytest.raises(ContextFull) as caught:
        asyncio.run(run("w" + " w" * 2999))
    assert caught.value.params == {"prompt": 3000, "room": 0, "context": 2000}
    with pytest.raises(UsageError, match="empty"):
        asyncio.run(run(""))


def test_closing_the_iterator_stops_the_computation(process: EngineProcess) -> None:
    async def run() -> int:
        stream = stream_chat(process.endpoint, [ChatMessage("user", LONG)], Sampling(max_new_tokens=400))
        got = 0
        async for _ in stream:
            got += 1
            if got == 3:
                break
        await stream.aclose()
        return got

    with _client(process) as client:
        before = _computed(client)
        assert asyncio.run(run()) == 3
        assert _stands_still(client)
        assert 3 <= _computed(client) - before < 100


@pytest.mark.parametrize("stream", [True, False])
def test_a_dropped_connection_stops_the_computation(process: EngineProcess, stream: bool) -> None:
    body = _body(LONG, stream=stream, max_tokens=400)
    with _client(process) as client:
        before = _computed(client)
        if stream:
            with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                next(reply.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/chat/completions", json=body, timeout=0.2)
        assert _stands_still(client)
        assert 0 < _computed(client) - before < 390


def test_more_than_the_slots_wait_and_are_served(process: EngineProcess) -> None:
    async def one(number: int) -> str:
        messages = [ChatMessage("user", f"n{number}")]
        return "".join([p.text async for p in stream_chat(process.endpoint, messages, Sampling())])

    async def run() -> list[str]:
        work = asyncio.gather(*(one(number) for number in range(12)))
        async with httpx.AsyncClient(headers=process.endpoint.headers, trust_env=False) as client:
            most = 0
            while not work.done():
                stats = (await client.get(process.endpoint.url + "/stats")).json()
                most = max(most, stats["active"])
        assert 0 < most <= 8
        return await work

    texts = asyncio.run(run())
    assert [text.rsplit(" ", 1)[1] for text in texts] == [f"n{number}" for number in range(12)]


def test_an_error_is_an_error(process: EngineProcess) -> None:
    async def run() -> None:
        async for _ in stream_chat(process.endpoint, [], Sampling()):
            pass

    with pytest.raises(CriaError, match="messages"):
        asyncio.run(run())


def test_half_characters_cross_the_wire(tmp_path: Path) -> None:
    # A folder's name comes from the disk, and Linux allows any bytes there.
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/parrot\xff"))
    folder.mkdir()
    with TestClient(build_app(Readiness(folder, EngineOptions(engine="echo")), "key")) as client:
        client.headers["authorization"] = "Bearer key"
        assert client.get("/v1/models").json()["data"][0]["id"] == folder.name
        readiness = Readiness(folder, EngineOptions())
    readiness.error = WeightsError("engine.no_folder", folder=str(folder))
    with TestClient(build_app(readiness, "key")) as client:
        client.headers["authorization"] = "Bearer key"
        assert client.get("/health").json()["error"]["params"]["folder"] == str(folder)
