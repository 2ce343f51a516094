"""``app.py downloads``: what is kept, and being rid of it. ``setup --dry-run``: what would come from where."""

import json
from pathlib import Path

import pytest

from backend.cli import setup as setting_up
from backend.cli.downloads import downloads
from backend.cli.parser import build_parser
from backend.conversations import Conversations
from backend.engines.supervisor import Supervisor
from backend.errors import SourceError
from backend.jobs.manager import JobManager
from backend.services import Services
from backend.settings import Settings
from backend.sources.access import Access
from tests.hub.family import demo
from tests.hub.server import Hub

COMMIT = "ab" * 20


@pytest.fixture
def services(settings: Settings) -> Services:
    return Services(
        settings, JobManager(settings.data_dir), Supervisor(settings.logs_dir), Conversations(settings.database)
    )


def kept(services: Services, name: str, size: int, commit: str = COMMIT) -> Path:
    folder = services.settings.downloads_dir / "hf" / name.replace("/", "--") / commit
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"x" * size)
    return folder


def run(services: Services, *words: str) -> int:
    return downloads(build_parser().parse_args(["downloads", *words]), services)


def test_downloads_are_listed_and_deleted_by_name(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = kept(services, "org/one", 8192), kept(services, "org/two", 4096)
    assert run(services) == 0
    assert "org/one@abababababab  not complete yet, not needed by any set-up" in capsys.readouterr().out
    assert run(services, "--json") == 0
    assert [row["bytes"] for row in json.loads(capsys.readouterr().out)] == [8192, 4096]
    assert run(services, "--delete", "org/one") == 0
    assert "8.2 kB" in capsys.readouterr().err
    assert (one.exists(), two.exists()) == (False, True)
    assert run(services, "--delete-unused") == 0
    assert not two.exists()
    assert run(services) == 0
    assert capsys.readouterr().out == ""


def test_a_name_that_means_two_versions_or_none_deletes_nothing(services: Services) -> None:
    folders = [kept(services, "org/one", 1, commit) for commit in (COMMIT, "cd" * 20)]
    for name, words in (("org/one", "several"), ("org/nothing", "no download"), ("../../jobs", "no download")):
        with pytest.raises(SourceError, match=words):
            run(services, "--delete", name)
    assert run(services, "--delete", "org/one@cdcdcdcdcdcd") == 0
    assert [folder.exists() for folder in folders] == [True, False]


def test_a_dry_run_says_what_comes_from_where(
    settings: Settings, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hub() as hub:
        hub.add("cria/demo-base", demo("base"))
        access = Access(hubs=(hub.url,), modelscope=None)
        online = Services(settings, services.jobs, services.engine, services.conversations, access=access)
        words = ("setup", "--base", "cria/demo-base", "--name", "mine", "--dry-run")
        assert setting_up.setup(build_parser().parse_args(words), online) == 0
    out = capsys.readouterr().out
    assert f"cria/demo-base: 5.4 MB from {hub.url.removeprefix('http://')} (version " in out
    assert not services.stock.all()
