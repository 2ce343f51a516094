"""Asking servers what they have: the hub, a mirror, ModelScope, a plain address; and what they refuse."""

from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from backend.errors import Cancelled, SourceError
from backend.sources.hub import list_hub
from backend.sources.remote import Servers, is_nobody_there, list_remote, probe
from backend.sources.spec import Repository, WebFile, parse
from backend.sources.wire import Token
from tests.hub.content import Generated
from tests.hub.server import Hub

WANTED = Repository("hf", "cria/model")
FILES = {"config.json": b"{}", "model.safetensors": Generated(300_000, 1), "deep/x.bin": b"1"}
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.add("cria/model", FILES)
        yield made


def servers(*hubs: str, **changes: Any) -> Servers:
    return Servers(**{"hubs": hubs, "modelscope": None, "proxies": {}, **changes})


def test_a_listing_is_pinned_to_a_commit_and_has_a_hash_for_every_file(hub: Hub) -> None:
    hub.page = 2
    listing, others = list_remote(WANTED, servers=servers(hub.url, NOBODY))
    repository = hub.repositories["cria/model"]
    assert listing.revision == repository.revisions["main"]
    assert {file.name: file.sha256 or file.git_sha1 for file in listing.files} == {
        "config.json": repository.files()["config.json"].git_sha1,
        "model.safetensors": repository.files()["model.safetensors"].sha256,
    }
    assert [other.endpoint for other in others] == [NOBODY]


def test_a_server_that_is_away_or_no_hub_is_passed_over(hub: Hub) -> None:
    with Hub() as captive:
        captive.fault("html", kind="*", times=0)
        listing, others = list_remote(WANTED, servers=servers(captive.url, hub.url))
    assert listing.endpoint == hub.url
    assert [other.endpoint for other in others] == [captive.url]


def test_where_no_hub_can_be_reached_all_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(wanted: object, *, endpoint: str, **_: object) -> NoReturn:
        raise SourceError("download.offline", host=endpoint.removeprefix("https://"))

    monkeypatch.setattr("backend.sources.remote.list_hub", nobody)
    with pytest.raises(SourceError) as caught:
        list_remote(WANTED, servers=servers("https://one.example", "https://two.example"))
    assert (caught.value.key, caught.value.params["host"]) == ("download.offline", "one.example, two.example")
    assert is_nobody_there(caught.value)


def test_no_connection_is_said_in_words_of_people() -> None:
    with pytest.raises(SourceError) as caught:
        list_hub(WANTED, endpoint=NOBODY, sleep=lambda _: None)
    assert caught.value.key == "download.offline"
    assert "ConnectError" not in caught.value.text("en")


def test_overload_and_a_broken_connection_are_tried_again(hub: Hub) -> None:
    hub.fault("status", 503, kind="info")
    hub.fault("drop", kind="info", first=2)
    waited: list[float] = []
    assert list_hub(WANTED, endpoint=hub.url, sleep=waited.append).bytes == 300_002
    assert max(waited) <= 0.2  # somebody may press Stop meanwhile
    assert sum(waited) > 0.5


def test_waiting_for_another_try_can_be_stopped(hub: Hub) -> None:
    hub.fault("status", 503, kind="info")
    waited: list[float] = []
    with pytest.raises(Cancelled):
        list_hub(WANTED, endpoint=hub.url, sleep=waited.append, cancelled=lambda: bool(waited))
    assert len(waited) == 1


@pytest.mark.parametrize(("spec", "key"), [
    ("cria/missing", "not_found"),
    ("cria/model@nowhere", "no_revision"),
    ("https://huggingface.co/cria/model/tree/main/none", "in_folders"),
])  # fmt: skip
def test_what_a_hub_does_not_have_is_said(hub: Hub, spec: str, key: str) -> None:
    wanted = parse(spec)
    assert isinstance(wanted, Repository)
    with pytest.raises(SourceError) as caught:
        list_hub(wanted, endpoint=hub.url)
    assert caught.value.key == f"download.{key}"


@pytest.mark.parametrize(("token", "status", "key"), [
    (None, "401", "gated"),
    ("hf_stranger", "403", "gated_token"),
])  # fmt: skip
def test_a_gated_repository_says_where_to_ask(hub: Hub, token: str | None, status: str, key: str) -> None:
    hub.fault("gated", status, kind="info")
    with pytest.raises(SourceError) as caught:
        list_hub(WANTED, endpoint=hub.url, token=token)
    assert caught.value.key == f"download.{key}"
    assert f"{hub.url}/cria/model" in caught.value.text()
    assert "stranger" not in caught.value.text()


@pytest.mark.parametrize("body", [
    '{"sha": "../../../x"}', "[" * 100_000, "{}",
])  # fmt: skip
def test_nonsense_in_place_of_a_commit_is_refused(hub: Hub, body: str) -> None:
    hub.fault("body", body, kind="info", times=0)
    with pytest.raises(SourceError) as caught:
        list_hub(WANTED, endpoint=hub.url)
    assert caught.value.key in ("download.not_a_hub", "download.bad_listing", "download.no_revision")


@pytest.mark.parametrize("body", [
    '[{"type": "file", "path": "../x.bin", "size": 1, "oid": "' + "1" * 40 + '"}]',
    '[{"type": "file", "path": "x.bin", "size": 1}]',
])  # fmt: skip
def test_nonsense_in_place_of_files_is_refused(hub: Hub, body: str) -> None:
    hub.fault("body", body, kind="tree", times=0)
    with pytest.raises(SourceError) as caught:
        list_hub(WANTED, endpoint=hub.url)
    assert caught.value.key in ("download.not_a_hub", "download.bad_listing", "download.no_weights")


def test_the_next_page_of_a_tree_is_not_looked_for_elsewhere(hub: Hub) -> None:
    elsewhere = hub.url.replace("127.0.0.1", "localhost")
    hub.fault("header", f'Link: <{elsewhere}/api/models/cria/model/tree/main?cursor=1>; rel="next"', kind="tree")
    with pytest.raises(SourceError) as caught:
        list_hub(WANTED, endpoint=hub.url, token="hf_secret")
    assert caught.value.key == "download.sent_elsewhere"
    assert [entry.token for entry in hub.log if entry.origin.startswith("localhost")] == []


def test_a_token_goes_to_its_own_server_only(hub: Hub) -> None:
    with Hub() as mirror:
        mirror.add("cria/model", FILES)
        mirror.fault("html", kind="info", times=0)
        tokens = (Token(hub.url, "hf_secret"),)
        list_remote(WANTED, servers=servers(mirror.url, hub.url, tokens=tokens, modelscope=mirror.url))
        assert {entry.token for entry in hub.log} == {"hf_secret"}
        assert {entry.token for entry in mirror.log} == {""}


def test_modelscope_pins_every_file_and_its_commit_stands_for_all(hub: Hub) -> None:
    listing, others = list_remote(Repository("modelscope", "cria/model"), servers=servers(modelscope=hub.url))
    assert others == ()
    assert len(listing.revision) == 40
    assert all(file.sha256 for file in listing.files)
    commit = hub.repositories["cria/model"].revisions["main"]
    assert all(f"Revision={commit}" in file.url for file in listing.files)


@pytest.mark.parametrize(("name", "revision", "key"), [
    ("cria/missing", None, "not_found"),
    ("cria/model", "nowhere", "no_revision"),
])  # fmt: skip
def test_what_modelscope_does_not_have_is_said(hub: Hub, name: str, revision: str | None, key: str) -> None:
    with pytest.raises(SourceError) as caught:
        list_remote(Repository("modelscope", name, revision), servers=servers(modelscope=hub.url))
    assert caught.value.key == f"download.{key}"


def test_a_file_on_the_web_is_known_by_its_length_and_etag(hub: Hub) -> None:
    url = hub.serve("lora.zip", b"z" * 1000)
    listing, _ = list_remote(WebFile(url), servers=servers())
    file = listing.files[0]
    assert (file.name, file.size) == ("lora.zip", 1000)
    assert file.etag
    assert [entry.range for entry in hub.log] == ["bytes=0-0"]


@pytest.mark.parametrize(("name", "kept"), [
    ("模型.zip", "file.zip"),
    ("中文alpaca.tar.gz", "alpaca.tar.gz"),
    (".hidden", "file.hidden"),
    ("..", "file.."),
])  # fmt: skip
def test_a_name_of_other_letters_keeps_what_tells_its_kind(hub: Hub, name: str, kept: str) -> None:
    hub.serve(name, b"z" * 1000)
    listing, _ = list_remote(WebFile(f"{hub.url}/files/{name}"), servers=servers())
    assert (listing.files[0].name, listing.bytes) == (kept, 1000)


@pytest.mark.parametrize(("fault", "value", "key"), [
    ("html", "", "page"),
    ("status", "404", "not_found"),
    ("header", "Content-Range: bytes 0-0/*", "no_length"),
    ("redirect", "ftp://127.0.0.1/x", "redirect_bad"),
])  # fmt: skip
def test_what_is_no_file_on_the_web_is_said(hub: Hub, fault: str, value: str, key: str) -> None:
    url = hub.serve("lora.zip", b"z" * 1000)
    hub.fault(fault, value, times=0)
    with pytest.raises(SourceError) as caught:
        list_remote(WebFile(url), servers=servers())
    assert caught.value.key == f"download.{key}"


def test_a_probe_tells_who_answers(hub: Hub) -> None:
    here, away = probe((hub.url, NOBODY), proxies={})
    assert here.seconds is not None
    assert away.seconds is None
