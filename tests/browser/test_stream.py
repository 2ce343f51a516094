"""Updates of a reply that wait while the page draws become one, and everything else passes as it came."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import RunningApp

pytestmark = pytest.mark.browser


def _update(event: str, *changes: list[Any]) -> dict[str, Any]:
    return {"msg": "process_generating", "event_id": event, "success": True, "output": {"data": list(changes)}}


def test_updates_that_wait_are_joined_and_nothing_is_lost(echo_app: RunningApp, open_page: Callable[..., Any]) -> None:
    def more(event: str, text: str) -> dict[str, Any]:
        return _update(event, [["append", [0, "text"], text]], [])

    whole = [{"text": "a"}]
    failed = {**more("A", "?"), "success": False, "output": {"error": "no"}}
    sent = [
        {"msg": "process_starts", "event_id": "A"}, _update("A", whole, ["x"]), more("A", "b"), more("A", "c"),
        _update("B", whole, ["x"]), more("B", "y"), more("A", "d"), more("A", "e"), failed, more("A", "f"),
        {"msg": "process_completed", "event_id": "A", "output": {"data": []}}, _update("A", whole, ["x"]),
        more("A", "g"),
    ]  # fmt: skip
    body = "".join(f"data: {json.dumps(one)}\n\n" for one in sent) + "data: no json\n\n: a remark\n\n"
    page = open_page(echo_app)
    page.route("**/stream-of-a-test", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    got = page.evaluate("async () => (await fetch('/stream-of-a-test')).text()").split("\n\n")
    assert got[-3:] == ["data: no json", ": a remark", ""]
    told = [json.loads(one.removeprefix("data:")) for one in got[:-3]]

    def appended(one: dict[str, Any]) -> str:
        return "".join(change[2] for change in one["output"]["data"][0])

    assert [one["msg"] for one in told].count("process_generating") == len(told) - 2
    kept = [one for one in told if one not in sent]
    assert [(one["event_id"], appended(one)) for one in kept] == [("A", "bc"), ("A", "de")]
    assert [one for one in sent if one not in told] == [sent[2], sent[3], sent[6], sent[7]]
    assert page.evaluate("async () => (await fetch(location.href)).headers.get('content-type')").startswith("text/html")
