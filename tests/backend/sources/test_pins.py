"""Asking for a listing once: a pin is used again while the hub means the same commit; asking ends when told to."""

import time
from collections.abc import Iterator

import pytest

from backend.errors import Cancelled, SourceError
from backend.sources import remote
from backend.sources.access import Access
from backend.sources.pins import Pins
from backend.sources.remote import Servers, list_remote
from backend.sources.spec import Repository
from tests.hub.server import Hub

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 1000}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.add("cria/model", FILES)
        yield made


def trees(hub: Hub) -> int:
    return sum(entry.kind == "tree" for entry in hub.log)


def test_what_was_listed_a_moment_ago_is_not_listed_again(hub: Hub) -> None:
    now = [0.0]
    pins, access = Pins(clock=lambda: now[0]), Access(hubs=(hub.url,), modelscope=None)
    first = pins("cria/model", access=access)
    assert first is not None
    assert pins("cria/model", access=access) == first
    assert trees(hub) == 1
    hub.add("cria/model", {**FILES, "model.safetensors": b"v" * 1000})  # somebody pushes
    moved = pins("cria/model", access=access)
    assert moved is not None
    assert moved.listing.revision != first.listing.revision
    assert trees(hub) == 2
    now[0] += 301.0
    assert pins("cria/model", access=access) == moved
    assert trees(hub) == 3


def test_a_pin_is_good_while_nobody_answers(hub: Hub) -> None:
    pins, access = Pins(), Access(hubs=(hub.url,), modelscope=None)
    first = pins("cria/model", access=access)
    hub.fault("drop", kind="*", times=0)
    assert pins("cria/model", access=access) == first


@pytest.mark.parametrize("kind", ["hf", "modelscope"])
def test_asking_ends_when_told_to(hub: Hub, kind: str) -> None:
    hub.fault("wait", 60, kind="*", times=0)
    wanted = Repository("hf" if kind == "hf" else "modelscope", "cria/model")
    servers = Servers(hubs=(hub.url,), modelscope=hub.url, proxies={})
    with pytest.raises(Cancelled):
        list_remote(wanted, servers=servers, cancelled=lambda: bool(hub.log))


def test_a_server_that_drips_has_only_so_long(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_ALL_S", 1.0)
    hub.fault("slow", 10.0, kind="*", times=0)
    began = time.monotonic()
    with pytest.raises(SourceError) as caught:
        list_remote(Repository("modelscope", "cria/model"), servers=Servers(modelscope=hub.url, proxies={}))
    assert caught.value.key == "download.no_answer"
    assert time.monotonic() - began < 60.0  # the drip would take many minutes
