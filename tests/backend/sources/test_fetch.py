"""Fetching against the stand-in hub: whatever goes wrong on the way, the bytes are right or there is a sentence."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import Cancelled, MachineError, SourceError
from backend.events import Log, Progress
from backend.settings import ROOT
from backend.sources import store
from backend.sources.chain import MARK
from backend.sources.fetch import fetch
from backend.sources.modelscope import list_modelscope
from backend.sources.remote import Servers, list_remote
from backend.sources.spec import Repository, WebFile
from backend.sources.wire import Session, Token
from tests.backend.sources.downloads import (
    FILES,
    NAME,
    QUICK,
    SECOND,
    WEIGHTS,
    assert_right,
    listed,
    logged,
    never,
    run,
)
from tests.hub.content import Flipped, Generated
from tests.hub.server import Hub

PAYLOAD = sum(content.size for content in FILES.values() if not isinstance(content, bytes))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.add(NAME, FILES)
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "hf" / "cria--model" / "0"


def test_everything_arrives_and_every_byte_is_counted(hub: Hub, folder: Path) -> None:
    listing = listed(hub)
    events = run(listing, folder)
    assert_right(hub, listing, folder)
    last = events[-1]
    assert isinstance(last, Progress)
    assert (last.done, last.total) == (listing.bytes, listing.bytes)
    assert hub.sent() == listing.bytes
    assert logged(events) == ["download.using"]


def test_what_is_complete_is_not_asked_for_again(hub: Hub, folder: Path) -> None:
    listing = listed(hub)
    run(listing, folder)
    hub.mend()
    assert run(listing, folder) == [Progress(listing.bytes, listing.bytes)]
    assert hub.log == []


def test_one_file_comes_in_several_ranges_at_once(hub: Hub, folder: Path) -> None:
    run(listed(hub), folder)
    ranges = {entry.range for entry in hub.asked(f"*/{WEIGHTS}*", kind="file")}
    assert len(ranges) >= 2


# --- transport --------------------------------------------------------------------------------------------------------

PASSING = [
    ("cut", "", {"after": 2_000_000}),
    ("cut", "", {"after": 0}),
    ("reset", "", {"after": 2_000_000}),
    ("drop", "", {"times": 3}),
    ("stall", "", {"after": 1_000_000}),
    ("slow", "500B", {}),
    ("html", "", {"times": 2}),
    ("html", "right", {}),
    ("length", "1000", {}),
    ("no-length", "", {"after": 500_000}),
    ("longer", "", {}),
    ("ignore-range", "", {"times": 2}),
    ("ignore-range", "", {"times": 0}),
    ("wrong-range", "start", {}),
    ("wrong-range", "end", {}),
    ("wrong-range", "total", {}),
    ("gzip", "", {}),
    ("other", "", {}),
    ("changed", "", {}),
    ("status", "408", {}),
    ("status", "416", {}),
    ("status", "429", {"retry_after": "0"}),
    ("status", "500", {"times": 3}),
    ("status", "503", {"kind": "link"}),
]


@pytest.mark.parametrize(("fault", "value", "where"), PASSING, ids=lambda part: str(part))
def test_a_fault_that_passes_costs_no_bytes_that_matter(
    hub: Hub, folder: Path, fault: str, value: str, where: dict[str, object]
) -> None:
    hub.fault(fault, value, **{"path": f"*{WEIGHTS}*", **where})
    listing = listed(hub)
    run(listing, folder)
    assert_right(hub, listing, folder)
    twice = {"other": 2.0, "ignore-range": 4.0, "html": 1.8, "gzip": 1.8, "wrong-range": 1.8, "changed": 1.8}
    assert hub.sent() <= listing.bytes * twice.get(fault, 1.35)


@pytest.mark.parametrize("form", ["1", "date:1"])
def test_a_server_that_asks_for_patience_gets_it(hub: Hub, folder: Path, form: str) -> None:
    hub.fault("status", 429, path="*config.json", kind="file", retry_after=form)
    began = time.monotonic()
    run(listed(hub), folder)
    assert time.monotonic() - began >= 0.9
    assert len(hub.asked("*config.json")) == 2


@pytest.mark.parametrize(("fault", "value", "key"), [
    ("html", "", "page"),
    ("length", "1000", "wrong_reply"),
    ("status", "404", "not_found"),
    ("status", "451", "legal"),
    ("gated", "401", "gated"),
    ("redirect", "loop", "redirects"),
    ("redirect", "file:///etc/passwd", "redirect_bad"),
])  # fmt: skip
def test_a_fault_that_stays_is_a_sentence(hub: Hub, folder: Path, fault: str, value: str, key: str) -> None:
    hub.fault(fault, value, path=f"*{WEIGHTS}*", kind="*", times=0)
    with pytest.raises(SourceError) as caught:
        run(listed(hub), folder)
    assert caught.value.key == f"download.{key}"
    assert caught.value.hint is not None
    assert not (folder / WEIGHTS).exists()


def test_a_server_that_is_gone_ends_the_fetch_and_the_next_goes_on(hub: Hub, folder: Path) -> None:
    listing = listed(hub)
    hub.fault("reset", path=f"*{WEIGHTS}*", after=3_000_000, times=1, first=1)
    rule = hub.fault("drop", path=f"*{WEIGHTS}*", times=0, first=3)
    with pytest.raises(SourceError) as caught:
        run(listing, folder, options=replace(QUICK, patience_s=0.5))
    assert caught.value.key == "download.unreachable"
    kept = store.bytes_there(folder, listing)
    assert kept > 5_000_000
    hub.rules.remove(rule)
    hub.log.clear()
    run(listing, folder)
    assert_right(hub, listing, folder)
    assert hub.sent() == listing.bytes - kept


# --- content ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 3_333_333, 8_999_999])
def test_a_flipped_byte_is_never_published_and_only_pieces_come_again(hub: Hub, folder: Path, at: int) -> None:
    hub.fault("flip", at, path=f"*{WEIGHTS}*", times=3)
    events = run(listed(hub), folder)
    assert_right(hub, listed(hub), folder)
    assert ("download.repaired" in logged(events)) == ("download.second_look" in logged(events))


def test_one_flipped_byte_in_a_large_file_does_not_cost_the_file(tmp_path: Path) -> None:
    size, at = 70_000_000, 20_000_000
    with Hub() as hub:
        hub.add(NAME, {WEIGHTS: Generated(size, 7)})
        hub.fault("flip", at, times=1)
        listing = listed(hub)
        events = run(listing, tmp_path / "x", options=replace(QUICK, connections=1, per_file=1))
        assert_right(hub, listing, tmp_path / "x")
        assert hub.sent() <= size + 2 * MARK
    repaired = [e.message for e in events if isinstance(e, Log) and e.message.key == "download.repaired"]
    assert 0 < int(repaired[0].params["count"] or 0) <= 1 << 19


def test_bytes_that_are_wrong_everywhere_are_refused(hub: Hub, folder: Path) -> None:
    hub.fault("other", path=f"*{SECOND}*", times=0)
    with pytest.raises(SourceError) as caught:
        run(listed(hub), folder)
    assert caught.value.key == "download.wrong_bytes"
    assert SECOND in caught.value.text()
    assert not (folder / SECOND).exists()
    hub.mend()
    run(listed(hub), folder)
    assert_right(hub, listed(hub), folder)


def test_a_revision_that_moves_under_way_changes_nothing(hub: Hub, folder: Path) -> None:
    listing = listed(hub)
    hub.fault("move", path="*", kind="link")
    run(listing, folder)
    assert_right(hub, listing, folder)


def test_a_copy_that_is_damaged_under_its_final_name_is_replaced(hub: Hub, folder: Path) -> None:
    listing = listed(hub)
    run(listing, folder)
    data = bytearray((folder / SECOND).read_bytes())
    data[77] ^= 1
    (folder / SECOND).write_bytes(data)
    hub.mend()
    run(listing, folder)
    assert_right(hub, listing, folder)
    assert {entry.target.partition("?")[0].rpartition("/")[2] for entry in hub.log} == {SECOND}


def test_a_file_without_a_published_sum_is_fetched_and_says_so(tmp_path: Path) -> None:
    with Hub() as hub:
        url = hub.serve("lora.zip", Generated(6_000_000, 4))
        listing, _ = list_remote(WebFile(url), servers=Servers(proxies={}))
        hub.fault("cut", after=1_000_000)
        assert "download.unproven" in logged(run(listing, tmp_path / "x"))
        assert (tmp_path / "x" / "lora.zip").read_bytes() == hub.plain["lora.zip"].read()
        hub.serve("lora.zip", Flipped(Generated(6_000_000, 4)))
        with pytest.raises(SourceError) as caught:
            run(listing, tmp_path / "y")
        assert caught.value.key == "download.changed"


# --- servers ----------------------------------------------------------------------------------------------------------


def test_another_server_goes_on_in_the_middle_of_a_file(hub: Hub, folder: Path) -> None:
    listing = listed(hub)
    with Hub() as mirror:
        mirror.add(NAME, FILES)
        hub.fault("cut", path="*", kind="file", after=700_000, times=0)
        events = run(listing, folder, others=[listing.at(mirror.url)])
        assert_right(hub, listing, folder)
        assert hub.sent() > 1_000_000
        assert mirror.sent() > 1_000_000
        assert hub.sent() + mirror.sent() < listing.bytes * 1.2
    said = [event.message for event in events if isinstance(event, Log)]
    assert [message.params["host"] for message in said if message.key == "download.using"] == [listing.host]
    assert mirror.url.endswith(str(next(m.params["host"] for m in said if m.key == "download.switched")))


def test_modelscope_helps_out_where_the_sums_agree(hub: Hub, folder: Path) -> None:
    with Hub() as other:
        other.add(NAME, {**FILES, SECOND: Flipped(Generated(5_000_001, 2))})
        session = Session(timeout_s=2.0, proxies={})
        help_out = list_modelscope(Repository("modelscope", NAME), endpoint=other.url, session=session)
        session.close()
        hub.fault("status", 500, path=f"*{WEIGHTS}*", kind="link", times=0)
        run(listed(hub), folder, others=[help_out])
        assert_right(hub, listed(hub), folder)
        assert {entry.target.partition("?")[0].rpartition("/")[2] for entry in other.asked(kind="file")} == {WEIGHTS}


def test_modelscope_alone_is_a_source_too(hub: Hub, folder: Path) -> None:
    session = Session(timeout_s=2.0, proxies={})
    listing = list_modelscope(Repository("modelscope", NAME), endpoint=hub.url, session=session)
    session.close()
    hub.fault("cut", path="*cdn*", after=1_000_000)
    run(listing, folder)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS].read()  # type: ignore[union-attr]


def test_a_token_reaches_the_server_it_was_given_for_and_no_other(hub: Hub, folder: Path) -> None:
    hub.tokens["hf_granted"] = True
    hub.repositories[NAME].gated = True
    listing = listed(hub)
    with Hub() as mirror:
        mirror.add(NAME, FILES)
        hub.fault("status", 500, path=f"*{SECOND}*", times=0)
        options = replace(QUICK, tokens=(Token(hub.url, "hf_granted"),))
        run(listing, folder, options=options, others=[listing.at(mirror.url)])
        assert {entry.token for entry in hub.asked(kind="link")} == {"hf_granted"}
        assert {entry.token for entry in (*hub.asked(kind="file"), *mirror.log) if "/cdn/" in entry.target} == {""}
        assert {entry.token for entry in mirror.log} == {""}
        assert "hf_granted" not in repr(options)


# --- limits, stopping, sharing ----------------------------------------------------------------------------------------


def test_a_limit_holds_for_all_connections_together(hub: Hub, folder: Path) -> None:
    began = time.monotonic()
    run(listed(hub), folder, options=replace(QUICK, rate=14_000_000.0, floor=0.0))
    assert time.monotonic() - began > 0.7


def test_a_limit_of_our_own_is_not_held_against_the_server(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.add(NAME, {WEIGHTS: Generated(1_500_000, 1)})
        options = replace(QUICK, rate=1_000_000.0, window_s=0.2, floor=400_000.0)
        run(listed(hub), tmp_path / "x", options=options)
        assert hub.sent() < 1_500_000 * 1.1


def test_stopping_takes_less_than_a_second_even_when_the_server_hangs(hub: Hub, folder: Path) -> None:
    listing = listed(hub)
    hub.fault("stall", "60", after=2_000_000, times=0)
    asked = threading.Event()
    threading.Timer(0.5, asked.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        run(listing, folder, options=replace(QUICK, window_s=30.0), cancelled=asked.is_set)
    assert time.monotonic() - began < 5.0  # far from the window; the machine may be busy
    kept = store.bytes_there(folder, listing)
    assert kept > 1_000_000
    hub.mend()
    run(listing, folder)
    assert_right(hub, listing, folder)
    assert hub.sent() == listing.bytes - kept


def test_leaving_the_generator_ends_the_threads(hub: Hub, folder: Path) -> None:
    hub.fault("stall", "60", after=100_000, times=0)
    stream = fetch(listed(hub), folder, options=replace(QUICK, window_s=30.0), cancelled=never)
    next(event for event in stream if isinstance(event, Progress) and event.done)
    stream.close()
    deadline = time.monotonic() + 5.0
    while any("run" in thread.name or "_sum_up" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_who_want_the_same_share_it(hub: Hub, folder: Path) -> None:
    listing = listed(hub)
    hub.fault("slow", "8MB", path=f"*{WEIGHTS}*", times=0)
    told: list[list[Progress | Log]] = [[], []]

    def work(number: int) -> None:
        told[number] = run(listing, folder)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_right(hub, listing, folder)
    assert hub.sent() == listing.bytes
    assert sorted("download.waiting" in logged(events) for events in told) == [False, True]


def test_files_of_the_hugging_face_cache_are_used_after_a_look(hub: Hub, folder: Path, tmp_path: Path) -> None:
    listing = listed(hub)
    blobs = tmp_path / "hub" / "models--cria--model" / "blobs"
    blobs.mkdir(parents=True)
    by_name = {file.name: file for file in listing.files}
    files = hub.repositories[NAME].files()
    good, bad = blobs / str(by_name[WEIGHTS].sha256), blobs / str(by_name[SECOND].sha256)
    good.write_bytes(files[WEIGHTS].read())
    bad.write_bytes(Flipped(files[SECOND], 5).read())
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (good, bad)}
    events = run(listing, folder, options=replace(QUICK, cache=tmp_path / "hub"))
    assert_right(hub, listing, folder)
    assert "download.from_cache" in logged(events)
    assert hub.sent() == listing.bytes - by_name[WEIGHTS].size
    assert (folder / WEIGHTS).stat().st_ino == good.stat().st_ino
    store.delete(folder.parent.parent.parent, _as_stored(folder, listing.revision))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (good, bad)} == before


def _as_stored(folder: Path, revision: str) -> Path:
    return folder.rename(folder.with_name(revision))


def test_a_disk_that_is_too_small_is_said_before_anything_is_asked(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.sources.disk.free_bytes", lambda folder: 10_000_000)
    with pytest.raises(MachineError) as caught:
        run(listed(hub), folder)
    assert caught.value.key == "download.disk_full"
    assert hub.log == []


@pytest.mark.parametrize("limit", [100_000, 2_000_000, 8_900_000])
def test_a_disk_that_fills_up_stops_it_and_room_lets_it_go_on(hub: Hub, folder: Path, limit: int) -> None:
    """RLIMIT_FSIZE in a child stands for the full disk: every write beyond it fails."""
    listing = listed(hub)
    code = (
        "import json, resource, signal, sys; from pathlib import Path\n"
        "from backend.errors import MachineError; from backend.sources.fetch import Options, fetch\n"
        "from backend.sources.listing import Listing\n"
        "listing = Listing.from_json(json.load(sys.stdin)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"from backend.sources import part; part.os.ftruncate = lambda *_: None\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        "    list(fetch(listing, Path(sys.argv[1]), options=Options(proxies={}), cancelled=lambda: False))\n"
        "except MachineError as error:\n"
        "    print(error.key)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], input=json.dumps(listing.to_json()), cwd=ROOT,
                          capture_output=True, text=True, timeout=30)  # fmt: skip
    assert done.stdout.strip() == "download.disk_full", done.stderr
    kept = store.bytes_there(folder, listing)
    hub.mend()
    run(listing, folder)
    assert_right(hub, listing, folder)
    assert hub.sent() == listing.bytes - kept
