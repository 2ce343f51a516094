"""Every fault of the stand-in really happens on the wire."""

import gzip
import socket
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from time import monotonic, time

import httpx
import pytest

from tests.hub.content import Flipped, Generated, Piece
from tests.hub.faults import FAULTS, amount
from tests.hub.server import Hub

SIZE = 3_000_000
TRUE = Generated(SIZE, 9)
DATA = TRUE.read()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.serve("a.bin", TRUE)
        made.add("cria/model", {"config.json": b"{}", "model.bin": TRUE})
        yield made


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=10) as made:
        yield made


def raw(hub: Hub, *, part: str = "", patience: float = 10.0, enough: int = 1 << 30) -> tuple[bytes, bytes, str]:
    """Ask for the file on a bare socket; return head, body, and how it ended: ``fin``, ``reset`` or ``silence``."""
    more = f"Range: {part}\r\n" if part else ""
    with socket.create_connection(("127.0.0.1", hub.port)) as connection:
        connection.settimeout(patience)
        connection.sendall(f"GET /files/a.bin HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{more}\r\n".encode())
        got, ending = bytearray(), "fin"
        try:
            while len(got) < enough and (data := connection.recv(1 << 20)):
                got += data
        except ConnectionResetError:
            ending = "reset"
        except TimeoutError:
            ending = "silence"
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    return head, body, ending


def length(head: bytes) -> int:
    return next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))


@pytest.mark.parametrize(("fault", "ending"), [("cut", "fin"), ("reset", "reset")])
def test_a_body_ends_early_where_it_should(hub: Hub, fault: str, ending: str) -> None:
    hub.fault(fault, after=1_234_567)
    head, body, how = raw(hub)
    assert (length(head), body, how) == (SIZE, DATA[:1_234_567], ending)
    assert raw(hub)[1:] == (DATA, "fin")  # once
    assert [(entry.sent, entry.faults) for entry in hub.log] == [(1_234_567, (fault,)), (SIZE, ())]


def test_a_connection_is_dropped_before_any_answer(hub: Hub) -> None:
    hub.fault("drop")
    assert raw(hub) == (b"", b"", "reset")


def test_a_stall_is_silence_and_then_the_rest(hub: Hub) -> None:
    hub.fault("stall", 0.3, after=1000)
    hub.fault("stall", first=2, after=2000)
    begun = monotonic()
    assert raw(hub)[1:] == (DATA, "fin")
    assert monotonic() - begun >= 0.3
    assert raw(hub, patience=0.2)[1:] == (DATA[:2000], "silence")


def test_an_answer_can_be_late(hub: Hub) -> None:
    hub.fault("wait", 0.3)
    begun = monotonic()
    assert raw(hub)[1] == DATA
    assert monotonic() - begun >= 0.3


def test_one_answer_can_drip(hub: Hub) -> None:
    hub.fault("slow", "2kB/s")
    begun = monotonic()
    body = raw(hub, enough=900)[1]
    assert monotonic() - begun >= 0.2  # some 700 bytes at 2 kB a second, the first 64 of them at once
    assert DATA.startswith(body)
    hub.fault("slow", "10MB/s")
    begun = monotonic()
    assert raw(hub)[1] == DATA
    assert monotonic() - begun >= 0.25


def test_a_rate_is_of_all_answers_together() -> None:
    with Hub(rate=20e6) as hub, httpx.Client(trust_env=False) as client:
        address = hub.serve("a.bin", TRUE)
        begun = monotonic()
        with client.stream("GET", address) as one, client.stream("GET", address) as other:
            assert one.read() == other.read()
        assert monotonic() - begun >= 0.25  # 6 MB at 20 MB/s take 0.3 s


@pytest.mark.parametrize(("value", "at"), [(2_000_000, None), ("", 2_000_000)])
def test_a_byte_is_flipped(hub: Hub, value: object, at: int | None) -> None:
    hub.fault("flip", value, at=at)
    assert raw(hub)[1] == Flipped(TRUE, 2_000_000).read()
    assert raw(hub)[1] == DATA


def test_a_fault_at_a_byte_of_the_file_waits_for_an_answer_that_has_it(hub: Hub) -> None:
    rule = hub.fault("cut", at=2_000_000)
    assert raw(hub, part="bytes=0-999")[1] == DATA[:1000]
    assert not rule.happened
    assert raw(hub, part="bytes=1999000-")[1] == DATA[1_999_000:2_000_000]
    assert rule.happened
    assert raw(hub)[1] == DATA


def test_another_version_under_the_same_tag_or_another_one(hub: Hub, client: httpx.Client) -> None:
    address = hub.serve("a.bin", TRUE)
    tag = client.head(address).headers["etag"]
    condition = {"Range": "bytes=1000-", "If-Range": tag}
    hub.fault("other")
    lied = client.get(address, headers=condition)
    assert (lied.status_code, lied.headers["etag"], lied.content) == (206, tag, Flipped(TRUE).read(1000))
    hub.fault("changed")
    honest = client.get(address, headers=condition)
    assert (honest.status_code, honest.content) == (200, Flipped(TRUE).read())
    assert honest.headers["etag"] != tag
    assert "content-range" not in honest.headers


def test_a_page_instead_of_the_file(hub: Hub) -> None:
    hub.fault("html", "right")
    hub.fault("html", "wrong", first=2)
    head, body, _ = raw(hub)
    assert (b"200" in head, b"text/html" in head, len(body)) == (True, True, SIZE)
    assert body.startswith(b"<!DOCTYPE html>")
    head, body, _ = raw(hub)
    assert length(head) == len(body) < 1000


@pytest.mark.parametrize("wrong", [-1000, 1000])
def test_a_length_that_is_not_the_bodys(hub: Hub, wrong: int) -> None:
    hub.fault("length", wrong)
    head, body, how = raw(hub)
    assert (length(head), body, how) == (SIZE + wrong, DATA, "fin")


def test_no_length_at_all_whole_or_cut(hub: Hub) -> None:
    hub.fault("no-length")
    hub.fault("no-length", first=2, after=5000)
    for body in (DATA, DATA[:5000]):
        head, found, how = raw(hub)
        assert b"Content-Length" not in head
        assert (found, how) == (body, "fin")


def test_a_body_that_is_longer_than_the_file(hub: Hub) -> None:
    hub.fault("longer", 10)
    head, body, _ = raw(hub)
    assert (length(head), body) == (SIZE + 10, DATA + bytes(10))


def test_a_range_that_is_ignored(hub: Hub) -> None:
    hub.fault("ignore-range")
    head, body, _ = raw(hub, part="bytes=1000-")
    assert b" 200 " in head
    assert b"Content-Range" not in head
    assert body == DATA


@pytest.mark.parametrize(
    ("value", "span", "start", "stop"),
    [
        ("start", b"bytes 1001-2999999/3000000", 1001, SIZE),
        ("end", b"bytes 1000-2999998/3000000", 1000, SIZE - 1),
        ("total", b"bytes 1000-2999999/3000001", 1000, SIZE),
    ],
)
def test_a_part_that_was_not_asked_for(hub: Hub, value: str, span: bytes, start: int, stop: int) -> None:
    hub.fault("wrong-range", value)
    head, body, _ = raw(hub, part="bytes=1000-")
    assert b"206" in head
    assert b"Content-Range: " + span in head
    assert body == DATA[start:stop]


@pytest.mark.parametrize("status", [403, 408, 416, 429, 500, 503])
def test_a_status_with_either_form_of_retry_after(hub: Hub, client: httpx.Client, status: int) -> None:
    address = hub.serve("a.bin", TRUE)
    hub.fault("status", status, retry_after="2")
    hub.fault("status", status, first=2, retry_after="date:2")
    seconds, date = client.get(address), client.get(address)
    assert (seconds.status_code, seconds.headers["retry-after"], date.status_code) == (status, "2", status)
    assert 1 <= parsedate_to_datetime(date.headers["retry-after"]).timestamp() - time() <= 3.5
    assert client.get(address).status_code == 200


def test_redirects_elsewhere_for_ever_and_to_a_private_place(hub: Hub, client: httpx.Client) -> None:
    with Hub(host="127.0.0.2") as private:
        private.serve("a.bin", b"secret")
        hub.fault("redirect", "loop", path="/files/*", times=0)
        with pytest.raises(httpx.TooManyRedirects):
            client.get(f"{hub.url}/files/a.bin", follow_redirects=True)
        hub.mend()
        hub.fault("redirect", f"{private.url}*", path="/files/*")
        assert client.get(f"{hub.url}/files/a.bin", follow_redirects=True).content == b"secret"
        assert [entry.target for entry in private.log] == ["/files/a.bin"]


def test_gzip_though_nobody_asked(hub: Hub) -> None:
    hub.fault("gzip")
    head, body, _ = raw(hub)
    assert b"Content-Encoding: gzip" in head
    assert gzip.decompress(body) == DATA


def test_a_gate_that_closes_under_way_and_hostile_words(hub: Hub, client: httpx.Client) -> None:
    hub.fault("gated", 401, path="*/resolve/*")
    hub.fault("body", '{"sha": "../../x"}', kind="info")
    hub.fault("header", "Link: <http://elsewhere.test/>; rel=next", kind="tree")
    closed = client.get(f"{hub.url}/cria/model/resolve/main/model.bin")
    assert (closed.status_code, closed.headers["x-error-code"]) == (401, "GatedRepo")
    assert client.get(f"{hub.url}/api/models/cria/model/revision/main").json() == {"sha": "../../x"}
    assert "elsewhere.test" in client.get(f"{hub.url}/api/models/cria/model/tree/main").headers["link"]


def test_rules_pick_by_kind_path_method_and_turn(hub: Hub, client: httpx.Client) -> None:
    hub.fault("status", 503, kind="head,link", method="*", path="*model.bin", first=2, times=2)
    address = f"{hub.url}/cria/model/resolve/main/"
    assert client.get(f"{address}config.json").status_code == 200
    assert client.get(f"{hub.url}/api/models/cria/model").status_code == 200
    answers = [
        client.head(f"{address}model.bin"),
        client.get(f"{address}model.bin"),
        client.head(f"{address}model.bin"),
    ]
    assert [answer.status_code for answer in [*answers, client.get(f"{address}model.bin")]] == [302, 503, 503, 302]


def test_faults_of_one_request_add_up(hub: Hub) -> None:
    hub.fault("flip", 10)
    hub.fault("cut", after=100)
    assert raw(hub)[1] == Flipped(TRUE, 10).read(0, 100)


def test_an_unknown_fault_is_refused_and_amounts_are_read(hub: Hub) -> None:
    with pytest.raises(ValueError, match="explode"):
        hub.fault("explode")
    assert "cut" in FAULTS
    assert [amount(text) for text in ("500", "20MB", "64KiB", "1.5GB/s", "3 kB")] == [
        500,
        20_000_000,
        65536,
        1_500_000_000,
        3000,
    ]
    with pytest.raises(ValueError, match="lots"):
        amount("lots")


def test_a_stop_ends_slow_answers(client: httpx.Client) -> None:
    hub = Hub(rate=1e6).__enter__()
    with client.stream("GET", hub.serve("a.bin", TRUE)) as answer:
        next(answer.iter_raw())
        hub.__exit__()
    assert 0 < hub.sent() < SIZE


def test_a_defect_of_the_stand_in_is_not_hidden(client: httpx.Client) -> None:
    class Broken(Generated):
        def pieces(self, start: int, stop: int) -> Iterator[Piece]:
            raise LookupError("mine")

    hub = Hub().__enter__()
    hub.plain["b.bin"] = broken = Broken(5)
    broken.sha256 = "0"
    with pytest.raises(httpx.HTTPError):
        client.get(f"{hub.url}/files/b.bin")
    with pytest.raises(LookupError, match="mine"):
        hub.__exit__()
