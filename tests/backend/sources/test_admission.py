"""Hubs list what they do not give; that is known before a plan counts on it."""

from collections.abc import Iterator

import pytest

from backend.errors import SourceError
from backend.sources.access import Access
from backend.sources.admission import check_admission
from backend.sources.listing import Listing, RemoteFile
from backend.sources.pinned import Pinned
from backend.sources.wire import Token
from tests.hub.family import demo
from tests.hub.server import Hub


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add("a/gated", demo("lora"), gated=True)
        hub.add("a/open", demo("lora"))
        hub.tokens |= {"hf_granted": True, "hf_stranger": False}
        yield hub


def pinned(hub: Hub, name: str, file: str = "adapter_config.json") -> Pinned:
    url = f"{hub.url}/{name}/resolve/main/{file}"
    files = (RemoteFile(file, 1, url, None, "1" * 40), RemoteFile("big.bin", 99, "http://unused", None, "1" * 40))
    return Pinned(name, Listing("hf", name, "2" * 40, hub.url, files))


@pytest.mark.parametrize(("secret", "key"), [(None, "download.gated"), ("hf_stranger", "download.gated_token")])
def test_a_gate_is_told_before_the_download(hub: Hub, secret: str | None, key: str) -> None:
    access = Access(tokens=(Token(hub.url, secret),) if secret else ())
    with pytest.raises(SourceError) as caught:
        check_admission(pinned(hub, "a/gated"), access=access)
    assert caught.value.key == key
    assert str(caught.value.params["page"]).endswith("/a/gated")


def test_who_may_have_it_is_let_in(hub: Hub) -> None:
    check_admission(pinned(hub, "a/open"), access=Access())
    check_admission(pinned(hub, "a/gated"), access=Access(tokens=(Token(hub.url, "hf_granted"),)))


def test_what_else_goes_wrong_is_for_the_download_to_tell(hub: Hub) -> None:
    check_admission(pinned(hub, "a/open", "no-such-file"), access=Access())
    files = (RemoteFile("f", 1, "http://127.0.0.1:9/f", None, "1" * 40),)
    check_admission(Pinned("x", Listing("hf", "x", "2" * 40, "http://127.0.0.1:9", files)), access=Access())
