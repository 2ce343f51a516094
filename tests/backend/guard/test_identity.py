"""Who asks: visitors and their cookie, gradio sessions (S7), administrators and guessing (S6)."""

import hashlib
import json
import logging
import re

import pytest

from backend.guard import admin, sessions, throttle
from backend.guard.throttle import Throttle
from tests.backend.guard.wire import AWAY, Clock, Guarded, guarded

TOKEN = "correct-horse-battery-staple"


@pytest.fixture
def shared() -> Guarded:
    """A server that listens and asks for a token."""
    return guarded(listen=True, admin_token=TOKEN)


def visitor(box: Guarded) -> dict[str, str]:
    """Open the page as a new browser; return the headers that it sends from now on."""
    return {"cookie": f"cria_visitor={box.ask().set_cookies['cria_visitor']}"}


def test_a_new_browser_gets_a_secret_and_the_app_gets_its_hash(shared: Guarded) -> None:
    answer = shared.ask()
    line, secret = answer.cookie_line("cria_visitor"), answer.set_cookies["cria_visitor"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", secret)
    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=31536000"} <= set(line.split("; "))
    assert "Secure" not in line
    owner = hashlib.sha256(secret.encode()).hexdigest()
    assert dict(answer.json()["headers"])["x-cria-visitor"] == owner
    assert shared.passed(headers={"cookie": f"cria_visitor={secret}"})["x-cria-visitor"] == owner


def test_two_browsers_are_two_visitors(shared: Guarded) -> None:
    one, other = (shared.passed(headers=visitor(shared))["x-cria-visitor"] for _ in range(2))
    assert one != other


@pytest.mark.parametrize("cookie", ["", "short", "a" * 42, "a" * 44, "a" * 42 + "!", "../" * 14 + "a", "é" * 43])
def test_a_cookie_of_another_shape_is_replaced(shared: Guarded, cookie: str) -> None:
    answer = shared.ask(headers={"cookie": f"cria_visitor={cookie}"})
    assert answer.set_cookies["cria_visitor"] != cookie
    assert len(answer.set_cookies["cria_visitor"]) == 43


def test_opening_the_page_renews_the_year_and_keeps_the_visitor(shared: Guarded) -> None:
    headers = visitor(shared)
    assert f"cria_visitor={shared.ask(headers=headers).set_cookies['cria_visitor']}" == headers["cookie"]
    assert shared.ask("GET", "/gradio_api/queue/data?session_hash=a", headers=headers).set_cookies == {}


def test_programs_and_files_get_no_cookie(shared: Guarded) -> None:
    for path in ("/v1/models", "/health", "/assets/a.js", "/theme.css"):
        answer = shared.ask("GET", path)
        assert answer.set_cookies == {}
        assert dict(answer.json()["headers"])["x-cria-visitor"] == ""


def test_cookies_are_secure_and_scoped_behind_a_proxy(shared: Guarded) -> None:
    answer = shared.ask("GET", "/llm/", root_path="/llm", scheme="https")
    line = answer.cookie_line("cria_visitor")
    assert line.endswith("; Secure")
    assert "Path=/llm/;" in line
    assert shared.ask("GET", "/llm/monitoring", root_path="/llm").status == 404
    login = shared.ask("GET", f"/llm/?token={TOKEN}&lang=en", root_path="/llm")
    assert (login.status, login.header("location")) == (303, "/llm/?lang=en")


def test_forged_facts_do_not_get_through(shared: Guarded) -> None:
    forged = {"X-Cria-Admin": "1", "x-cria-visitor": "f" * 64, "x-cria-place": "", "x-cria-anything": "1"}
    answer = shared.ask(headers=forged)
    names = [name for name, _ in answer.json()["headers"] if name.startswith("x-cria")]
    assert names == ["x-cria-visitor", "x-cria-admin", "x-cria-place"]
    reached = dict(answer.json()["headers"])
    assert reached["x-cria-admin"] == "0"
    assert reached["x-cria-visitor"] != "f" * 64


@pytest.mark.parametrize(
    ("client", "place"),
    [("127.0.0.1", ""), ("::1", ""), ("10.0.0.7", "10.0.0.7"), ("2001:db8::1:2:3:4", "2001:db8::/64")],
)
def test_where_somebody_comes_from(shared: Guarded, client: str, place: str) -> None:
    assert shared.passed(client=client)["x-cria-place"] == place


def test_secrets_stay_in_the_guard(shared: Guarded) -> None:
    secret = visitor(shared)["cookie"]
    key = shared.ask("POST", "/admin/login", body={"token": TOKEN}).set_cookies["cria_admin"]
    reached = shared.passed(headers={"cookie": f"lang=zh-TW; {secret}; cria_admin={key}; other=1"})
    assert reached["cookie"] == "lang=zh-TW; other=1"
    assert reached["x-cria-admin"] == "1"


def test_localhost_asks_for_nothing_and_a_shared_server_without_a_token_trusts_nobody() -> None:
    assert guarded().passed()["x-cria-admin"] == "1"
    assert guarded().ask("POST", "/admin/login", body={"token": "anything"}).status == 200
    assert guarded(listen=True).passed()["x-cria-admin"] == "0"
    assert guarded(listen=True).ask("POST", "/admin/login", body={"token": ""}).status == 401


def test_a_page_address_with_the_token_becomes_a_cookie(shared: Guarded) -> None:
    answer = shared.ask("GET", f"/?a=1&token={TOKEN}&b=%26%2F", client=AWAY)
    assert (answer.status, answer.header("location")) == (303, "/?a=1&b=%26%2F")
    line = answer.cookie_line("cria_admin")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(line.split("; "))
    assert TOKEN not in line
    key = answer.set_cookies["cria_admin"]
    assert shared.passed(headers={"cookie": f"cria_admin={key}"}, client=AWAY)["x-cria-admin"] == "1"
    assert shared.passed(client=AWAY)["x-cria-admin"] == "0"
    assert shared.echo.calls == 2


def test_a_wrong_token_in_the_address_is_said_to_the_person(shared: Guarded) -> None:
    answer = shared.ask("GET", "/?token=nope", headers={"accept": "text/html"})
    assert answer.status == 401
    assert answer.set_cookies == {}
    assert b"without ?token=" in answer.body


def test_the_box_on_the_page_logs_in_and_out(shared: Guarded) -> None:
    good = shared.ask("POST", "/admin/login", body={"token": f" {TOKEN}\n"})
    assert (good.status, good.json()) == (200, {"admin": True})
    assert shared.ask("POST", "/admin/login", body={"token": "wrong"}).status == 401
    gone = shared.ask("POST", "/admin/logout", body=b"")
    assert (gone.status, gone.json(), gone.set_cookies["cria_admin"]) == (200, {"admin": False}, "")
    assert "Max-Age=0" in gone.cookie_line("cria_admin")
    assert shared.ask("GET", "/admin/login").status == 405


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"token": 5}', b'{"token": null}', b"[" * 100_000, b"\xff"])
def test_a_login_that_is_no_login_is_refused_and_not_counted(shared: Guarded, body: bytes) -> None:
    for _ in range(10):
        assert shared.ask("POST", "/admin/login", body=body).status == 400
    assert shared.ask("POST", "/admin/login", body={"token": TOKEN}).status == 200


SPOILED = {
    "longer": lambda key: key + "0",
    "later": lambda key: "9" * 12 + key[key.index(".") :],
    "none": lambda key: "",
    "the token": lambda key: TOKEN,
    "other words": lambda key: "x.y",
    "unsigned": lambda key: key.partition(".")[0],
    "no digit": lambda key: "²." + key,
    "not ASCII": lambda key: "é",
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_an_administrators_cookie_cannot_be_made_up(shared: Guarded, spoil: str) -> None:
    key = shared.ask("POST", "/admin/login", body={"token": TOKEN}).set_cookies["cria_admin"]
    assert shared.passed(headers={"cookie": f"cria_admin={SPOILED[spoil](key)}"})["x-cria-admin"] == "0"


def test_an_administrators_cookie_ends(shared: Guarded) -> None:
    key = shared.ask("POST", "/admin/login", body={"token": TOKEN}).set_cookies["cria_admin"]
    other_process = guarded(listen=True, admin_token=TOKEN)
    assert other_process.passed(headers={"cookie": f"cria_admin={key}"})["x-cria-admin"] == "0"
    shared.clock.now += admin.SESSION_S + 1
    assert shared.passed(headers={"cookie": f"cria_admin={key}"})["x-cria-admin"] == "0"


def test_a_program_may_bring_the_token_itself(shared: Guarded) -> None:
    assert shared.passed(headers={"authorization": f"Bearer {TOKEN}"})["x-cria-admin"] == "1"
    assert shared.passed(headers={"authorization": "Basic abc"})["x-cria-admin"] == "0"
    assert shared.ask(headers={"authorization": "Bearer wrong"}).status == 401


def test_an_api_key_is_no_guess_at_the_token(shared: Guarded) -> None:
    for _ in range(50):
        headers = {"authorization": "Bearer some-api-key"}
        assert shared.passed("GET", "/v1/models", headers=headers)["x-cria-admin"] == "0"
    assert shared.passed("GET", "/v1/models", headers={"authorization": f"Bearer {TOKEN}"})["x-cria-admin"] == "0"
    assert shared.ask("POST", "/admin/login", body={"token": TOKEN}).status == 200


WAYS = {
    "box": lambda box, token, **to: box.ask("POST", "/admin/login", body={"token": token}, **to),
    "address": lambda box, token, **to: box.ask("GET", f"/?token={token}", **to),
    "bearer": lambda box, token, **to: box.ask("GET", "/", headers={"authorization": f"Bearer {token}"}, **to),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("addresses", [1, 10])
def test_guessing_is_slow_whatever_the_way(shared: Guarded, way: str, addresses: int) -> None:
    evaluated, ask = dict.fromkeys(range(addresses), 0), WAYS[way]
    for step in range(1000):  # a thousand guesses within a minute
        shared.clock.now += 0.06
        number = step % addresses
        status = ask(shared, f"wrong{step}", client=f"198.51.100.{number}").status
        assert status in {401, 429}
        evaluated[number] += status == 401
    assert max(evaluated.values()) <= 20
    assert min(evaluated.values()) >= 5
    assert ask(shared, TOKEN, client="203.0.113.1").status in {200, 303}  # others are not locked out
    assert ask(shared, TOKEN, client="198.51.100.0").status == 429  # not even looked at
    shared.clock.now += throttle.LONGEST_S
    assert ask(shared, TOKEN, client="198.51.100.0").status in {200, 303}


def test_a_throttled_client_is_told_when_to_come_back(shared: Guarded) -> None:
    for _ in range(5):
        shared.ask("POST", "/admin/login", body={"token": "x"})
    answer = shared.ask("POST", "/admin/login", body={"token": "x"})
    assert answer.status == 429
    assert int(str(answer.header("retry-after"))) in {2, 3}
    assert answer.json()["error"]["code"] == "guard.tries"


def test_the_throttle_doubles_forgets_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    slow = Throttle(clock)
    waits = []
    for _ in range(12):
        slow.wrong("a")
        waits.append(slow.wait_s("a"))
        clock.now += slow.wait_s("a")
    assert waits == [0, 0, 0, 0, 2, 4, 8, 16, 32, 60, 60, 60]
    clock.now += throttle.FORGET_S + 1
    slow.wrong("a")
    assert slow.wait_s("a") == 0
    monkeypatch.setattr(throttle, "MAX_CLIENTS", 3)
    for name in "bcdef":
        slow.wrong(name)
    assert list(slow._clients) == ["d", "e", "f"]


REQUESTS = {
    "join": lambda name: ("POST", "/gradio_api/queue/join", {"data": [], "fn_index": 0, "session_hash": name}),
    "run": lambda name: ("POST", "/gradio_api/run/predict", {"data": [], "fn_index": 0, "session_hash": name}),
    "cancel": lambda name: ("POST", "/gradio_api/cancel", {"session_hash": name, "fn_index": 0, "event_id": "e"}),
    "stream": lambda name: ("GET", f"/gradio_api/queue/data?session_hash={name}", None),
    "hidden in a query": lambda name: ("POST", f"/gradio_api/cancel?session_hash={name}", {"session_hash": "own"}),
    "named twice": lambda name: ("GET", f"/gradio_api/queue/data?session_hash=own&session_hash={name}", None),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_session_belongs_to_its_first_visitor(shared: Guarded, what: str) -> None:
    alice, bob = visitor(shared), visitor(shared)
    method, path, body = REQUESTS["join"]("alices1")
    assert shared.ask(method, path, body=body, headers=alice).status == 200
    calls = shared.echo.calls
    method, path, body = REQUESTS[what]("alices1")
    for other in (bob, {}):  # another visitor, and nobody
        answer = shared.ask(method, path, body=body, headers=other)
        assert (answer.status, answer.json()["error"]["code"]) == (403, "guard.session")
    assert shared.echo.calls == calls
    if "own" not in json.dumps([path, body]):
        assert shared.ask(method, path, body=body, headers=alice).status == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"session_hash": 5}', b'{"session_hash": ["a"]}', b"[" * 100_000,
                                  b'{"session_hash": ""}', b'{"session_hash": "a/b"}', b"\xff\xfe", b'"x"',
                                  json.dumps({"session_hash": "x" * 65}).encode()])  # fmt: skip
def test_a_body_that_no_page_sends_goes_no_further(shared: Guarded, body: bytes) -> None:
    answer = shared.ask("POST", "/gradio_api/run/predict", body=body, headers=visitor(shared))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "guard.malformed")
    assert isinstance(answer.json()["detail"], str)


def test_a_request_without_a_session_is_nobodys_business(shared: Guarded) -> None:
    assert shared.ask("POST", "/gradio_api/run/predict", body={"session_hash": None}).status == 200
    assert shared.ask("POST", "/gradio_api/run/predict", body={"data": []}).status == 200


def test_the_table_of_sessions_is_bounded_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    owners = sessions.SessionOwners(clock)
    owners.check("s", "alice")
    clock.now += sessions.IDLE_S - 1
    with pytest.raises(Exception, match="another browser"):
        owners.check("s", "bob")
    clock.now += 2
    owners.check("s", "bob")
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    for name in ("t", "u", "v"):
        owners.check(name, "alice")
    assert list(owners._owners) == ["u", "v"]


def test_the_log_has_no_secrets(shared: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        shared.ask("GET", f"/?token={TOKEN}")
        shared.ask("GET", "/?token=MARKED-WRONG")
        shared.ask("POST", "/admin/login", body={"token": TOKEN})
        secret = visitor(shared)["cookie"].partition("=")[2]
        shared.ask(
            "GET", "/gradio_api/queue/data?session_hash=MARKEDSESSION", headers={"cookie": f"cria_visitor={secret}"}
        )
        shared.ask("GET", "/%0Aforged line")
        shared.ask("GET", "/a\nforged line")
    assert "GET / 303" in caplog.text
    for hidden in (TOKEN, "MARKED", secret, "token=", "\nforged"):
        assert hidden not in caplog.text
