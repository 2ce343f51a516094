"""The small rules of a transfer: what an answer holds, when to try again, how fast, whom to ask."""

from collections.abc import Mapping

import pytest

from backend.errors import SourceError
from backend.sources.listing import Listing, RemoteFile
from backend.sources.pace import Bucket, Watch
from backend.sources.places import Places
from backend.sources.ranges import body_start, strong_etag
from backend.sources.refusals import refusal
from backend.sources.retry import back_off, is_transient, retry_after
from backend.sources.trouble import Trouble
from backend.sources.wire import Token

SIZE = 1000


def start(status: int, headers: Mapping[str, str], name: str = "w.bin") -> int:
    lowered = {key.lower(): value for key, value in headers.items()}
    return body_start(status, lambda key: lowered.get(key.lower()), 100, 200, size=SIZE, host="h", file=name)


RIGHT = {"Content-Range": "bytes 100-199/1000", "Content-Length": "100"}


@pytest.mark.parametrize(("status", "headers", "position"), [
    (206, RIGHT, 100),
    (206, {"Content-Range": "bytes 100-149/1000"}, 100),
    (200, RIGHT, 100),
    (200, {"Content-Length": "1000"}, 0),
    (200, {}, 0),
])  # fmt: skip
def test_a_right_answer_says_where_it_begins(status: int, headers: dict[str, str], position: int) -> None:
    assert start(status, headers) == position


@pytest.mark.parametrize(("status", "headers"), [
    (206, {}),
    (206, RIGHT | {"Content-Range": "bytes 101-199/1000"}),
    (206, RIGHT | {"Content-Range": "bytes 100-200/1000"}),
    (206, RIGHT | {"Content-Range": "bytes 100-99/1000"}),
    (206, RIGHT | {"Content-Range": "bytes 100-199/999"}),
    (206, RIGHT | {"Content-Range": "bytes 100-199/*"}),
    (206, RIGHT | {"Content-Length": "99"}),
    (206, RIGHT | {"Content-Encoding": "gzip"}),
    (206, RIGHT | {"Content-Type": "text/html; charset=utf-8"}),
    (206, {"Content-Type": "multipart/byteranges; boundary=x"}),
    (200, {"Content-Length": "999"}),
    (200, {"Content-Length": "1000", "Content-Type": "TEXT/HTML"}),
])  # fmt: skip
def test_a_wrong_answer_is_refused(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(Trouble) as caught:
        start(status, headers)
    assert caught.value.strike
    assert "w.bin" in caught.value.error.text()


@pytest.mark.parametrize(("value", "strong"), [('"abc"', '"abc"'), ('W/"abc"', None), ("abc", None), (None, None)])
def test_only_a_strong_etag_promises_bytes(value: str | None, strong: str | None) -> None:
    assert strong_etag(lambda key: value) == strong


def test_which_refusals_may_pass() -> None:
    assert [status for status in (401, 403, 404, 408, 410, 416, 425, 429, 451, 500, 501, 502, 503, 504, 505, 520)
            if is_transient(status)] == [408, 425, 429, 500, 502, 503, 504, 520]  # fmt: skip


@pytest.mark.parametrize(("value", "seconds"), [
    ("120", 120.0),
    (" 0 ", 0.0),
    ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
    ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
    ("99999999999999", None),
    ("-5", None),
    ("soon", None),
    ("", None),
    (None, None),
])  # fmt: skip
def test_retry_after_comes_in_two_forms(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=10.0) == seconds


def test_waits_grow_and_end() -> None:
    assert all(0.25 <= back_off(1) <= 0.5 for _ in range(20))
    assert back_off(1000) <= 30.0


@pytest.mark.parametrize(("status", "code", "has_token", "key"), [
    (401, "GatedRepo", False, "gated"),
    (403, "GatedRepo", True, "gated_token"),
    (401, None, False, "not_found"),
    (401, None, True, "token_refused"),
    (404, "RepoNotFound", True, "not_found"),
    (451, None, False, "legal"),
    (429, None, False, "busy"),
    (400, None, False, "refused"),
])  # fmt: skip
def test_a_refusal_has_a_way_out(status: int, code: str | None, has_token: bool, key: str) -> None:
    error = refusal(status, code, host="h", repository="a/b", page="https://h/a/b", has_token=has_token)
    assert error.key == f"download.{key}"
    assert error.hint is not None


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_lets_through_its_rate() -> None:
    clock = Clock()
    bucket = Bucket(1000.0, clock)
    for _ in range(50):
        clock.now += bucket.take(100)
    assert 4.7 <= clock.now <= 5.0
    assert Bucket(None, clock).take(10**12) == 0.0
    assert Bucket(10_000.0, clock).portion < Bucket(1e9, clock).portion


def test_a_watch_tells_slow_from_waiting() -> None:
    watch = Watch(floor=100.0, window_s=10.0)
    assert not any(watch.waited(1.0, 200) for _ in range(50))
    assert [watch.waited(1.0, 50) for _ in range(10)] == [False] * 9 + [True]


FILE = RemoteFile("w.bin", 5, "https://one/w.bin", sha256="0" * 64)
ONE = Listing("hf", "a/b", "1" * 40, "https://one", (FILE,))


def places(clock: Clock, *others: Listing) -> Places:
    return Places((ONE, *others), (Token("https://one", "s"),), base_s=1.0, clock=clock)


def host(places: Places) -> str:
    picked = places.pick("w.bin")
    assert picked is not None
    return picked[0].listing.host


def fault(**how: bool | float) -> Trouble:
    return Trouble(SourceError("download.cut", host="one", file="w.bin"), **how)  # type: ignore[arg-type]


def test_two_failures_in_a_row_move_on_and_the_first_gets_another_chance() -> None:
    clock = Clock()
    both = places(clock, ONE.at("https://two"))
    first = both.all[0]
    both.failed(first, "w.bin", fault())
    both.failed(first, "w.bin", fault())  # at the same moment: one failure of the network, not two
    assert host(both) == "one"
    clock.now = 2.0
    both.failed(first, "w.bin", fault())
    assert host(both) == "two"
    clock.now = 100.0
    assert host(both) == "one"
    assert [place.token is not None for place in both.all] == [True, False]


def test_who_asks_for_much_patience_is_passed_over_only_if_there_is_another() -> None:
    clock = Clock()
    both, alone = places(clock, ONE.at("https://two")), places(clock)
    for some in (both, alone):
        some.failed(some.all[0], "w.bin", fault(wait_s=50.0))
    assert host(both) == "two"
    picked = alone.pick("w.bin")
    assert picked is not None
    assert picked[1] == 50.0


def test_nonsense_four_times_or_a_plain_no_ends_it() -> None:
    for times, how in ((4, {"strike": True}), (1, {"hopeless": True})):
        clock = Clock()
        alone = places(clock)
        for _ in range(times):
            assert alone.pick("w.bin") is not None
            alone.failed(alone.all[0], "w.bin", fault(**how))
        assert alone.pick("w.bin") is None
        assert alone.problem("w.bin").key == "download.cut"


def test_another_servers_file_counts_only_if_it_is_the_same() -> None:
    other = Listing("modelscope", "a/b", "2" * 40, "https://two", (RemoteFile("w.bin", 5, "https://two/w", "1" * 64),))
    assert [set(place.files) for place in places(Clock(), other).all] == [{"w.bin"}, set()]
