"""The Setup tab's downloads over a stand-in hub: what the receipt says, which server gets which token, what is kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import Refused, SourceError, UsageError
from backend.jobs.manager import PLAN
from backend.services import DownloadChoice
from backend.settings import Settings
from backend.sources.access import VARIABLE, Access
from tests.hub.family import demo
from tests.hub.server import Hub
from tests.ui import acting
from tests.ui.test_setup import Visitor, World, make_world

FORM = ("cria/demo-base", "cria/demo-delta", "", "mine", "", "", "", "")
TOKEN = "hf_granted"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as served:
        for member in ("base", "delta"):
            served.add(f"cria/demo-{member}", demo(member))
        served.add("cria/gated", demo("base"), gated=True)
        served.tokens[TOKEN] = True
        yield served


@pytest.fixture
def world(settings: Settings, hub: Hub) -> Iterator[World]:
    made = make_world(settings, acting.halfway, access=Access(hubs=(hub.url,), modelscope=None))
    yield made
    for job in made.jobs.views():
        made.jobs.pause(job.id)
    made.jobs.join()


def plan(visitor: Visitor, *fields: Any) -> set[Any]:
    return visitor.take(visitor.handlers.plan_form(visitor.request, *fields))


def fetched(world: World, name: str, files: dict[str, bytes]) -> Path:
    """Put something into the store that looks like an unfinished download."""
    folder = world.services.settings.downloads_dir / "hf" / name.replace("/", "--") / ("ab" * 20)
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


def test_the_receipt_says_what_comes_from_where(world: World, hub: Hub) -> None:
    visitor = world.visit()
    plan(visitor, *FORM)
    assert visitor.stage == "plan"
    receipt = visitor.page(visitor.view.receipt)
    commit = str(hub.repositories["cria/demo-base"].commit("main"))[:12]
    row = next(row.text for row in receipt.all("li") if "cria/demo-base" in row.text)
    assert commit in row
    assert hub.url.removeprefix("http://") in row
    assert "5.4 MB" in row
    assert receipt.all("a", href=f"{hub.url}/cria/demo-base")
    assert receipt.facts()["Download"] == "10.9 MB"


def test_a_token_reaches_the_worker_and_no_file_and_no_page(world: World, hub: Hub) -> None:
    visitor, form = world.visit(), ("cria/gated", "", "", "mine", "", "", "", "")
    access = ("other", hub.url, TOKEN, 2)
    plan(visitor, *form, *access)
    assert visitor.stage == "plan"
    visitor.start("mine", *form, *access)
    assert visitor.stage == "run"
    job = world.jobs.views()[0].id
    given = json.loads(world.jobs._given[job][VARIABLE])
    assert given["tokens"] == [[hub.url, TOKEN]]
    assert (given["rate"], given["chosen"]) == (2_000_000, hub.url)
    written = [path for path in world.services.settings.data_dir.rglob("*") if path.is_file()]
    assert any(path.name == PLAN for path in written)
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    visitor.tick()
    assert TOKEN not in repr(visitor.shown.values())
    assert TOKEN not in repr(DownloadChoice(token=TOKEN))


@pytest.mark.parametrize("server", ["", "https://hf-mirror.com"])
def test_resume_takes_another_server_and_the_old_choice_otherwise(world: World, hub: Hub, server: str) -> None:
    visitor = world.visit()
    visitor.start("mine", *FORM, "", "", TOKEN, None)
    job = world.jobs.views()[0].id
    before = world.jobs._given[job]
    world.jobs.pause(job)
    world.jobs.join()
    visitor.press("resume", job, server, "", "", None)
    assert (world.jobs._given[job] == before) == (server == "")
    chosen = json.loads(world.jobs._given[job][VARIABLE])["chosen"]
    pinned = world.jobs.plan(job).remotes[0]
    remote, here = pinned.through(chosen), hub.url.removeprefix("http://")
    hosts = [listing.host for listing in (remote.listing, *remote.others)]
    assert hosts == (["hf-mirror.com", here] if server else [here])
    assert remote.folder(Path()) == pinned.folder(Path())


def test_which_servers_answer_and_how_fast(world: World, hub: Hub) -> None:
    visitor = world.visit()
    card = world.handlers.test_servers(visitor.request, "other", "http://127.0.0.1:9", "", None)
    assert "127.0.0.1:9 does not answer" in card
    assert f"{hub.url.removeprefix('http://')} answers, in" in card
    assert "cannot be the address" in world.handlers.test_servers(visitor.request, "other", "nonsense", "", None)
    assert "No address was given" in world.handlers.test_servers(visitor.request, "other", " ", "", None)
    with pytest.raises(Refused):
        world.handlers.test_servers(world.visit(admin=False).request, "", "", "", None)


def test_another_address_is_asked_for_only_where_it_is_meant(world: World) -> None:
    visitor = world.visit()
    assert world.handlers.choose_server(visitor.request, "other").visible
    assert not world.handlers.choose_server(visitor.request, "").visible


def test_downloads_are_listed_for_administrators_and_deleted(world: World) -> None:
    folder = fetched(world, "cria/old", {"model.bin": bytes(3_000_000)})
    visitor, guest = world.visit(), world.visit(admin=False)
    assert "cria/old" not in guest.shown[guest.view.stored]
    listed = visitor.page(visitor.view.stored)
    line = listed.one(data_download=f"cria/old@{'ab' * 6}").text
    assert "3.0 MB" in line
    assert "not complete yet · not needed by any set-up" in line
    with pytest.raises(Refused):
        guest.press("delete-download", "cria/old")
    visitor.press("delete-download", "cria/old")
    assert not folder.exists()
    assert "Nothing that was downloaded" in visitor.shown[visitor.view.stored]
    with pytest.raises(SourceError, match="There is no download"):
        visitor.press("delete-download", "../models")


def test_what_a_running_set_up_needs_stays(world: World) -> None:
    visitor = world.visit()
    visitor.start("mine", *FORM)
    remote = world.jobs.plan(world.jobs.views()[0].id).remotes[0]
    folder = remote.folder(world.services.settings.downloads_dir)
    folder.mkdir(parents=True)
    fetched(world, "cria/old", {"model.bin": b"1"})
    assert [one.users for one in world.services.stock.all()] == [("mine",), ()]
    with pytest.raises(SourceError, match="at this moment"):
        visitor.press("delete-download", "cria/demo-base")
    visitor.press("delete-unused")
    assert [one.folder for one in world.services.stock.all()] == [folder]
    world.jobs.pause(world.jobs.views()[0].id)
    world.jobs.join()
    visitor.tick()
    assert "needed by mine" in visitor.shown[visitor.view.stored]
    visitor.press("delete-download", "cria/demo-base")
    assert not folder.exists()


@pytest.mark.parametrize("server", ["ftp://x", "https://user@host", "https://host/path", "https://a b"])
def test_what_cannot_be_a_server_is_refused(server: str) -> None:
    with pytest.raises(UsageError, match="cannot be the address"):
        Access().through(server)


def test_a_token_belongs_to_one_server(hub: Hub) -> None:
    mine = Access().through("https://hf-mirror.com/", token=" secret ", rate=5)
    assert (mine.hubs, mine.modelscope, mine.rate) == (("https://hf-mirror.com",), None, 5)
    assert [(one.origin, one.secret) for one in mine.tokens] == [("https://hf-mirror.com", "secret")]
    again = mine.through("https://hf-mirror.com", token="other")
    assert [one.secret for one in again.tokens] == ["other"]
    usual = Access().through("", token="secret")
    assert [one.origin for one in usual.tokens] == ["https://huggingface.co"]
    assert usual.hubs == Access().hubs
    only = Access().through("https://www.modelscope.cn")
    assert (only.hubs, only.modelscope) == ((), "https://www.modelscope.cn")
    assert Access.from_worker(mine.to_environment()) == mine
    with pytest.raises(UsageError, match="characters that no token has"):
        Access().through("", token="two\nlines")


def test_where_only_modelscope_is_asked_a_plain_name_is_looked_up_there(settings: Settings, hub: Hub) -> None:
    world = make_world(settings, acting.whole, access=Access(hubs=(), modelscope=hub.url))
    visitor = world.visit()
    plan(visitor, *FORM)
    receipt = visitor.page(visitor.view.receipt)
    assert receipt.all("a", href=f"{hub.url}/models/cria/demo-base")
