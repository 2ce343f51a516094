"""Merging while the download is under way: the same bytes as afterwards, nothing unproven, and it stops at once."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from backend.errors import Cancelled, CriaError, WeightsError
from backend.events import Event, Progress
from backend.jobs import steps
from backend.jobs.joint import make_joint
from backend.jobs.steps import STEPS, Context
from backend.jobs.together import Halt, together
from backend.plan import FETCH, MERGE, make_plan
from backend.recipes import custom_recipe
from backend.sources import access as access_module
from backend.sources import arriving
from backend.sources.access import Access
from backend.sources.fetch import Options
from backend.sources.pinned import find_source
from backend.weights.writer import save
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf
from tests.hub.repository import folder_files
from tests.hub.server import Hub

TINY, BASE, DELTA, SHARDS = Tiny(hidden=64, layers=4, vocab=500), "cria/base", "cria/delta", 3
LAST = {"safetensors": "model-00003-of-00003.safetensors", "bin": "pytorch_model-00003-of-00003.bin"}
Served = tuple[Path, Path, dict[str, bytes]]
SMALL_FILES = partial(save, shard_bytes=100_000)
FIRST_OUT = "model-00001-of-*.safetensors"


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat a model of half a megabyte as one of many gigabytes."""
    monkeypatch.setattr(arriving, "_SMALL", 1 << 12)
    monkeypatch.setattr(arriving, "_SOON", 0)
    monkeypatch.setattr(arriving, "_BLOCK", 1 << 10)
    monkeypatch.setattr(steps, "save", SMALL_FILES)
    usual = Options(retry_s=0.02, window_s=0.5, patience_s=10.0, proxies={})
    monkeypatch.setattr(access_module, "Options", lambda **given: replace(usual, **given))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


def sources(tmp_path: Path, kind: str, tiny: Tiny = TINY) -> tuple[Path, Path]:
    """Write a base, and the delta to another model of its size."""
    base, tuned = weights(TINY, 1), weights(tiny, 2)
    delta = {name: tuned[name] - base[name] if tiny == TINY else tuned[name] * 0.01 for name in tuned}
    folders = tmp_path / "in" / "base", tmp_path / "in" / "delta"
    for folder, found, size in zip(folders, (base, delta), (TINY, tiny), strict=True):
        write_hf(folder, size, found, kind=kind, shards=SHARDS)
        (folder / "tokenizer.model").write_bytes(tokenizer_model())
    return folders


def publish(hub: Hub, base: Path, delta: Path) -> None:
    hub.add(BASE, folder_files(base))
    hub.add(DELTA, folder_files(delta))


def context(data: Path, hub: Hub | None, base: str, delta: str) -> Context:
    access = Access(hubs=(hub.url,) if hub else (), modelscope=None)
    find = partial(find_source, access=access)
    plan = make_plan(custom_recipe("made", base=base, delta=delta), self_test=False, find=find, downloads=data / "d")
    partial_folder = data / "models" / ".partial-made"
    return Context(plan, data / "models", partial_folder, data / "logs", lambda: False, data / "d", access=access)


def both(job: Context) -> Iterator[tuple[str, Event | None]]:
    """Run both steps as a worker does."""
    joint = make_joint(job)
    assert joint is not None
    try:
        yield from together({step: partial(STEPS[step], joint.context) for step in (FETCH, MERGE)}, joint.halt)
    finally:
        joint.close()


def made(job: Context) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(job.partial.glob("model*"))}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """Return, for each kind of file, a base, a delta, and what merging the folders gives."""
    found = {}
    for kind in LAST:
        folder = tmp_path_factory.mktemp(kind)
        base, delta = sources(folder, kind)
        job = context(folder / "plain", None, str(base), str(delta))
        assert make_joint(job) is None
        with mock.patch.object(steps, "save", SMALL_FILES):
            for step in (FETCH, MERGE):
                list(STEPS[step](job))
        found[kind] = base, delta, made(job)
    return found


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_output_file_is_there_before_the_last_source_file(
    tmp_path: Path, hub: Hub, served: dict[str, Served], kind: str
) -> None:
    base, delta, wanted = served[kind]
    publish(hub, base, delta)
    hub.fault("stall", path=f"*{LAST[kind]}", at=(delta / LAST[kind]).stat().st_size // 2, times=0)
    job = context(tmp_path / "data", hub, BASE, DELTA)
    ended = []
    for step, event in both(job):
        if hub.rules and list(job.partial.glob(FIRST_OUT)):
            assert not (job.plan.remotes[1].folder(job.downloads) / LAST[kind]).exists()
            hub.rules.clear()
        ended += [step] if event is None else []
    assert not hub.rules  # it came to that
    assert sorted(ended) == [FETCH, MERGE]
    assert made(job) == wanted
    assert not list(job.partial.glob(".arriving"))


def test_what_does_not_fit_is_known_before_the_bytes(tmp_path: Path, hub: Hub) -> None:
    base, delta = sources(tmp_path, "safetensors", Tiny(hidden=32, layers=4, vocab=500))
    publish(hub, base, delta)
    hub.fault("stall", path="*00001-of-00003.safetensors", at=20_000, times=0)
    with pytest.raises(WeightsError) as caught:
        list(both(context(tmp_path / "data", hub, BASE, DELTA)))
    assert caught.value.key.startswith("weights.")


@pytest.mark.parametrize("fault", ["flip", "ignore-range"])
def test_a_wrong_look_ahead_decides_nothing(tmp_path: Path, hub: Hub, served: dict[str, Served], fault: str) -> None:
    base, delta, wanted = served["safetensors"]
    publish(hub, base, delta)
    # The first answer that has these bytes is mostly that to the look ahead: the tenth byte is in the header's length.
    hub.fault(fault, path="*00002-of-00003.safetensors", at=9, times=1)
    job = context(tmp_path / "data", hub, BASE, DELTA)
    list(both(job))
    assert made(job) == wanted


def test_samples_that_were_wrong_are_noticed_when_the_file_is_there(
    tmp_path: Path, hub: Hub, served: dict[str, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, delta, wanted = served["safetensors"]
    publish(hub, base, delta)
    ask, lied = arriving.Arriving._ask, threading.Event()

    def lie(self: arriving.Arriving, coming: arriving._Coming, start: int, stop: int) -> bytes:
        data = ask(self, coming, start, stop)
        if lied.is_set() or start < 30_000:
            return data
        lied.set()
        return bytes([data[0] ^ 1]) + data[1:]

    monkeypatch.setattr(arriving.Arriving, "_ask", lie)
    has_come = arriving.Arriving._has_come
    late = lambda self, coming: lied.is_set() and has_come(self, coming)  # noqa: E731
    monkeypatch.setattr(arriving.Arriving, "_has_come", late)
    job = context(tmp_path / "data", hub, BASE, DELTA)
    told = [event.note.key for _, event in both(job) if isinstance(event, Progress) and event.note]
    assert told.count("arriving.looking") == 2  # once more, with the proven bytes
    assert made(job) == wanted


@pytest.mark.parametrize("moment", ["looking", "waiting"])
def test_it_stops_when_asked_and_goes_on(tmp_path: Path, hub: Hub, served: dict[str, Served], moment: str) -> None:
    base, delta, wanted = served["safetensors"]
    publish(hub, base, delta)
    hub.fault("stall", path=f"*{LAST['safetensors']}", at=None if moment == "looking" else 60_000, times=0)
    asked = threading.Event()
    job = context(tmp_path / "data", hub, BASE, DELTA)
    job.cancelled = asked.is_set

    def stopped_in_time() -> None:
        for step, _ in both(job):
            if step == MERGE and (moment == "looking" or list(job.partial.glob(FIRST_OUT))):
                asked.set()

    with pytest.raises(Cancelled):
        stopped_in_time()
    assert not list(job.partial.glob(".arriving"))
    kept = {path.name: path.stat().st_mtime_ns for path in job.partial.glob("model-*.safetensors")}
    hub.mend()
    job.cancelled = lambda: False
    list(both(job))
    assert made(job) == wanted
    assert {name: (job.partial / name).stat().st_mtime_ns for name in kept} == kept  # what was made is not made again


def test_the_first_failure_stops_the_others() -> None:
    halt = Halt(lambda: False)

    def fails() -> Iterator[Event]:
        yield Progress(1, 2)
        raise CriaError("job.cancelled")

    def waits() -> Iterator[Event]:
        while not halt():
            yield Progress(0, 1)
            threading.Event().wait(0.001)
        raise Cancelled("job.cancelled")

    with pytest.raises(CriaError) as caught:
        list(together({"fails": fails, "waits": waits}, halt))
    assert not isinstance(caught.value, Cancelled)
    assert halt()
