"""Where a request may come from: Host (S1), Origin and Fetch Metadata (S3), headers on every answer (S13)."""

import asyncio
import itertools
import socket

import pytest

from backend.guard import Limits
from backend.guard.hosts import host_name, is_loopback, network_of
from backend.guard.routes import Kind, kind_of
from tests.backend.guard.wire import AWAY, Guarded, guarded, send_raw

ROUTES = ["/", "/config", "/gradio_api/queue/data?session_hash=a", "/v1/models", "/health", "/assets/a.js"]
OPEN_ROUTES = [route for route in ROUTES if route != "/config"]
OURS = ["localhost", "localhost:7860", "LOCALHOST:80", "127.0.0.1:7860", "[::1]:7860", "[::1]", "lab.example:8080"]
FOREIGN = [
    "evil.test", "evil.test:7860", "localhost.evil.test", "127.0.0.1.evil.test", "169.254.1.1", "0.0.0.0", "127.0.0.2",
    "", "localhost:", "localhost:7860:1", "user@localhost", "localhost/x", "[::2]", "[::1", "192.0.2.1:7860",
    "xn--lab-hla.example", "lab.example.", " localhost", "localhost\\", "sub.lab.example",
]  # fmt: skip


@pytest.fixture
def local() -> Guarded:
    return guarded(allow_hosts=("Lab.Example",))


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_host_is_misdirected_on_every_route(local: Guarded, host: str) -> None:
    for route in ROUTES:
        answer = local.ask("GET", route, headers={"host": host})
        assert answer.status == 421, (host, route)
    assert local.echo.calls == 0


@pytest.mark.parametrize("host", OURS)
def test_our_own_names_answer(local: Guarded, host: str) -> None:
    assert [local.ask("GET", route, headers={"host": host}).status for route in OPEN_ROUTES] == [200] * 5


def test_a_person_is_told_how_to_allow_a_name(local: Guarded) -> None:
    headers = {"host": "gpu7.lab:7860", "accept": "text/html", "accept-language": "zh-TW"}
    answer = local.ask("GET", "/", headers=headers)
    assert answer.header("content-type") == "text/plain; charset=utf-8"
    assert "--allow-host gpu7.lab" in answer.body.decode()
    assert "伺服器" in answer.body.decode()


def test_two_hosts_or_none_are_refused(local: Guarded) -> None:
    for hosts in ([], [("host", "localhost"), ("host", "evil.test")], [("host", "localhost"), ("host", "localhost")]):
        assert asyncio.run(send_raw(local.guard, "GET", "/", hosts, [b""])).status == 421


def test_listening_adds_the_machines_own_names_and_the_address_that_was_called() -> None:
    everywhere = guarded(listen=True, admin_token="t")
    called = {"server": ("192.0.2.1", 8080), "client": AWAY}
    own = [
        f"{socket.gethostname()}:8080",
        f"{socket.gethostname().partition('.')[0]}.local",
        "192.0.2.1:8080",
        "localhost",
    ]
    for host in own:
        assert everywhere.ask(headers={"host": host}, **called).status == 200, host
    for host in ("192.0.2.2:8080", "evil.test", "[2001:db8::1]"):
        assert everywhere.ask(headers={"host": host}, **called).status == 421, host
    six = {"server": ("2001:db8::1", 8080), "client": "2001:db8::9"}
    assert everywhere.ask(headers={"host": "[2001:DB8:0::1]:8080"}, **six).status == 200
    mapped = {"server": ("::ffff:192.0.2.1", 8080), "client": AWAY}
    assert everywhere.ask(headers={"host": "192.0.2.1"}, **mapped).status == 200


def test_a_star_lets_every_well_formed_name_in() -> None:
    anyone = guarded(allow_hosts=("*",))
    assert anyone.ask(headers={"host": "any.name:1"}).status == 200
    assert anyone.ask(headers={"host": "a b"}).status == 421


ORIGINS = [
    "https://evil.test", "null", "http://localhost", "http://localhost:7861", "https://localhost:7860",
    "http://127.0.0.1:7860", "file://", "http://localhost:7860.evil.test",
]  # fmt: skip
TARGETS = [
    ("GET", "/"), ("GET", "/assets/a.js"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/health"),
    ("POST", "/gradio_api/queue/join"), ("GET", "/gradio_api/queue/data"), ("POST", "/gradio_api/run/predict"),
    ("POST", "/admin/login"), ("POST", "/admin/logout"),
]  # fmt: skip
TYPES = ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_sites_page_can_do_and_read_nothing(origin: str) -> None:
    anyone = guarded(admin_token="t")
    for (method, path), kind in itertools.product(TARGETS, TYPES):
        headers = {"origin": origin, "content-type": kind}
        answers = [
            anyone.ask(
                method, path, headers=headers, body={"token": "t", "session_hash": "a"} if method == "POST" else None
            ),
            anyone.ask("OPTIONS", path, headers={**headers, "access-control-request-method": method}),
        ]
        for answer in answers:
            assert answer.status == 403
            assert not [name for name, _ in answer.headers if name.startswith("access-control-")]
            assert not answer.set_cookies
    assert anyone.echo.calls == 0


def test_our_own_origin_is_compared_with_its_port(local: Guarded) -> None:
    assert local.ask("GET", "/", headers={"origin": "http://localhost:7860"}).status == 200
    assert local.ask("GET", "/", headers={"host": "localhost", "origin": "http://localhost:80"}).status == 200
    proxied = {"host": "lab.example", "origin": "https://lab.example"}
    assert local.ask("GET", "/", headers=proxied).status == 403
    assert local.ask("GET", "/", headers=proxied, scheme="https").status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "unheard-of"])
def test_other_sites_may_link_to_the_page_and_nothing_else(local: Guarded, site: str) -> None:
    link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert local.ask("GET", "/", headers=link).status == 200
    for change in ({"sec-fetch-dest": "iframe"}, {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}):
        assert local.ask("GET", "/", headers={**link, **change}).status == 403
    for path in ("/v1/models", "/gradio_api/queue/data?session_hash=a", "/assets/a.js", "/health"):
        assert local.ask("GET", path, headers=link).status == 403
    assert local.ask("POST", "/v1/chat/completions", headers=link, body={}).status == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_our_own_page_and_typed_addresses_pass(local: Guarded, site: str) -> None:
    assert local.ask("POST", "/v1/chat/completions", headers={"sec-fetch-site": site}, body={}).status == 200


FIXED = ("content-security-policy", "x-frame-options", "x-content-type-options", "referrer-policy",
         "cross-origin-resource-policy", "permissions-policy")  # fmt: skip


def test_every_answer_carries_the_same_security_headers() -> None:
    small = guarded(Limits(body_bytes=10), admin_token="t")
    answers = [
        small.ask("GET", "/"),
        small.ask("GET", "/assets/a.js"),
        small.ask("GET", "/gradio_api/queue/data?session_hash=s"),
        small.ask("POST", "/v1/chat/completions", body=b"{}"),
        small.ask("POST", "/v1/chat/completions", body=b"x" * 11),
        small.ask("GET", "/monitoring"),
        small.ask("DELETE", "/"),
        small.ask("GET", "/", headers={"host": "evil.test"}),
        small.ask("GET", "/", headers={"origin": "null"}),
        small.ask("GET", "/?token=t"),
        small.ask("GET", "/?token=wrong"),
    ]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 413, 404, 405, 421, 403, 303, 401]
    for answer in answers:
        names = [name for name, _ in answer.headers]
        policy = dict(part.strip().split(" ", 1) for part in str(answer.header("content-security-policy")).split(";"))
        assert {names.count(name) for name in FIXED} == {1}
        assert policy["default-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["object-src"] == "'none'"
        assert policy["img-src"] == "'self' data: blob:"
        assert answer.header("x-frame-options") == "DENY"
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("referrer-policy") == "no-referrer"
        assert answer.header("cross-origin-resource-policy") == "same-origin"
        assert not [name for name in names if name.startswith("access-control-")]
    on_the_network = guarded(allow_hosts=("lab",)).ask(headers={"host": "lab"})
    assert on_the_network.header("cross-origin-opener-policy") is None
    assert answers[0].header("cross-origin-opener-policy") == "same-origin"


@pytest.mark.parametrize(
    "path",
    ["//gradio_api/upload", "/x/../gradio_api/upload", "/gradio_api/./upload", "/gradio_api/upload", "/a\\b", "/a\nb",
     "/gradio_api", "/gradio_api/", "/gradio_api/queue", "/gradio_api/queue/join/", "/gradio_api/queue/status",
     "/gradio_api/file=/etc/passwd", "/gradio_api/file/x", "/gradio_api/proxy=http://x", "/gradio_api/upload_progress",
     "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/deep_link", "/gradio_api/heartbeat/abc",
     "/gradio_api/component_server", "/gradio_api/call/f", "/gradio_api/api/f", "/gradio_api/stream/x/y/1/list.m3u8",
     "/monitoring", "/monitoring/summary", "/openapi.json", "/docs", "/redoc", "/login", "/logout", "/login/",
     "/config", "/svelte/x", "/pwa_icon/5", "/admin", "/admin/x", "/..", "x"],
)  # fmt: skip
def test_what_is_not_needed_is_not_there(local: Guarded, path: str) -> None:
    assert kind_of(path) is Kind.OFF
    assert local.ask("GET", path).status == 404
    assert local.echo.calls == 0


def test_addresses() -> None:
    assert host_name("[::1]:80") == "::1"
    assert host_name("a:b") is None
    assert network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2::9") != network_of("2001:db8:1:3::9")
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("") == ""
    assert is_loopback("127.5.5.5")
    assert is_loopback("::1")
    assert not is_loopback("192.0.2.1")
    assert not is_loopback("testclient")
