"""How much at once: bodies declared and counted, slow ones, requests in flight; and streams that nothing holds back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from backend.guard import Guard, Limits
from backend.settings import Settings
from tests.backend.guard.wire import AWAY, HERE, Answer, Guarded, guarded, make_scope, send_raw

POST_HEADERS = {"host": "localhost"}


@pytest.fixture
def small() -> Guarded:
    return guarded(Limits(body_bytes=100, body_s=0.05))


def test_a_body_up_to_the_limit_arrives_whole(small: Guarded) -> None:
    answer = small.ask("POST", "/v1/chat/completions", body=b"x" * 100)
    assert (answer.status, answer.json()["body"]) == (200, "x" * 100)


@pytest.mark.parametrize("length", ["101", "9" * 14, "9" * 400])
def test_a_declared_body_over_the_limit_is_refused_unread(small: Guarded, length: str) -> None:
    for method in ("POST", "GET"):
        answer = small.ask(method, "/v1/chat/completions", headers={"content-length": length})
        assert (answer.status, answer.json()["error"]["code"]) == (413, "guard.too_large")
    assert small.echo.calls == 0


@pytest.mark.parametrize("length", ["-1", "1e3", "", "0x10", "１", "5, 6"])
def test_a_length_that_is_no_number_is_refused(small: Guarded, length: str) -> None:
    if length.isascii():
        assert small.ask("POST", "/v1/models", headers={"content-length": length}).status == 400


def test_a_body_without_a_length_is_counted(small: Guarded) -> None:
    async def upload(size: int) -> Answer:
        return await send_raw(small.guard, "POST", "/v1/chat/completions", POST_HEADERS, [b"y" * 10] * size)

    whole = asyncio.run(upload(10))
    assert (whole.status, whole.json()["body"]) == (200, "y" * 100)
    assert asyncio.run(upload(11)).status == 413
    assert small.echo.calls == 1


def test_a_body_that_never_ends_is_given_up(small: Guarded) -> None:
    async def dawdle() -> Answer:
        answer = Answer()
        first: list[Message] = [{"type": "http.request", "body": b"y", "more_body": True}]

        async def receive() -> Message:
            if not first:
                await asyncio.sleep(60)
            return first.pop()

        async def send(message: Message) -> None:
            answer.status = message.get("status", answer.status)

        await small.guard(make_scope("POST", "/v1/models", POST_HEADERS), receive, send)
        return answer

    assert asyncio.run(dawdle()).status == 408


def test_a_client_that_leaves_while_sending_gets_no_answer(small: Guarded) -> None:
    answer = asyncio.run(send_raw(small.guard, "POST", "/v1/models", POST_HEADERS, [b"y"], left=True))
    assert answer.status == 0
    assert small.echo.calls == 0


class Holding:
    """An app whose streams last until the test lets go, or the client leaves."""

    def __init__(self) -> None:
        self.open = 0
        self.left = 0
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.open += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        leaving = asyncio.ensure_future(receive())
        going = asyncio.ensure_future(self.go.wait())
        done, pending = await asyncio.wait({leaving, going}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if leaving in done and leaving.result()["type"] == "http.disconnect":
            self.left += 1
        await send({"type": "http.response.body", "body": b"last"})
        self.open -= 1


@asynccontextmanager
async def crowd(guard: Guard, holding: Holding, clients: list[str]) -> AsyncIterator[list[Any]]:
    """Open one stream per client; let all end afterwards."""

    async def one(client: str) -> int:
        answer = Answer()

        async def receive() -> Message:
            await asyncio.sleep(3600)
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            answer.status = message.get("status", answer.status)

        await guard(make_scope("GET", "/", POST_HEADERS, client=client), receive, send)
        return answer.status

    tasks = [asyncio.ensure_future(one(client)) for client in clients]
    await asyncio.sleep(0.01)
    yield tasks
    holding.go.set()
    await asyncio.gather(*tasks)


def held(limits: Limits) -> tuple[Guard, Holding]:
    holding = Holding()
    return Guard(holding, Settings(data_dir=Path("unused")), limits=limits), holding


def test_one_client_cannot_take_every_place() -> None:
    async def main() -> None:
        guard, holding = held(Limits(client_requests=3, requests=5))
        async with crowd(guard, holding, [AWAY] * 4 + ["192.0.2.8"] * 3 + [HERE] * 50) as tasks:
            assert holding.open == 5 + 50
            refused = [task.result() for task in tasks if task.done()]
            assert refused == [429, 503]  # the fourth of one client; the sixth of all strangers
        assert holding.open == 0
        assert (guard._places._remote, dict(guard._places._clients)) == (0, {})

    asyncio.run(main())


def test_a_person_with_many_tabs_is_never_refused() -> None:
    async def main() -> None:
        guard, holding = held(Limits())
        async with crowd(guard, holding, [HERE] * 300):
            assert holding.open == 300

    asyncio.run(main())


def test_local_requests_are_bounded_too() -> None:
    async def main() -> None:
        guard, holding = held(Limits(local_requests=10))
        async with crowd(guard, holding, [HERE] * 12) as tasks:
            assert [task.result() for task in tasks if task.done()] == [429, 429]

    asyncio.run(main())


def test_a_place_comes_back_when_the_app_fails() -> None:
    async def main() -> None:
        async def failing(scope: Scope, receive: Receive, send: Send) -> None:
            raise RuntimeError("broken")

        guard = Guard(failing, Settings(data_dir=Path("unused")))
        with pytest.raises(RuntimeError):
            await send_raw(guard, "GET", "/", POST_HEADERS, [b""])
        assert dict(guard._places._clients) == {}

    asyncio.run(main())


def test_pieces_pass_at_once_and_a_client_that_leaves_is_noticed() -> None:
    async def main() -> None:
        guard, holding = held(Limits())
        arrived: asyncio.Queue[Message] = asyncio.Queue()
        leave = asyncio.Event()
        sent: list[Message] = [{"type": "http.request", "body": b"{}", "more_body": False}]

        async def receive() -> Message:
            if sent:
                return sent.pop()
            await leave.wait()
            return {"type": "http.disconnect"}

        scope = make_scope("POST", "/v1/chat/completions", POST_HEADERS)

        class Reading(Holding):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                assert (await receive())["body"] == b"{}"
                await holding(scope, receive, send)

        guard._app = Reading()
        running = asyncio.ensure_future(guard(scope, receive, arrived.put))
        assert (await arrived.get())["type"] == "http.response.start"
        assert await arrived.get() == {"type": "http.response.body", "body": b"first", "more_body": True}
        leave.set()
        await asyncio.wait_for(running, 5)
        assert holding.left == 1

    asyncio.run(main())


def test_lifespan_passes_and_websockets_do_not() -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["type"])

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            seen.append(message["type"])

        guard = Guard(app, Settings(data_dir=Path("unused")))
        await guard({"type": "lifespan"}, receive, send)
        await guard({"type": "websocket", "path": "/", "headers": []}, receive, send)
        return seen

    assert asyncio.run(main()) == ["lifespan", "websocket.close"]
