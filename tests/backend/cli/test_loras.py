"""LoRAs on the command line and in the terminal's chat."""

from pathlib import Path

import pytest

from backend.cli.loras import is_command, switched, told, usage, with_loras
from backend.cli.parser import build_parser
from backend.engines.base import EngineOptions, Lora, Sampling
from backend.errors import UsageError

TWO = (Lora("/x/ada", 1.0), Lora("/x/bob", 0.5))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Return a store with two downloads of one name from two people."""
    store = tmp_path / "downloads"
    for owner in ("alice", "bert"):
        folder = store / "hf" / f"{owner}--my-lora" / COMMIT
        folder.mkdir(parents=True)
    return store


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download counts as complete."""
    monkeypatch.setattr("backend.sources.store._is_whole", lambda folder: True)


def loras(*wanted: str, downloads: Path) -> tuple[Lora, ...]:
    return with_loras(EngineOptions(), wanted, downloads).loras


def test_folders_and_strengths(tmp_path: Path, downloads: Path) -> None:
    for name in ("plain", "a=1"):
        (tmp_path / name).mkdir()
    found = loras(f"{tmp_path}/plain=0.5", f"{tmp_path}/a=1", downloads=downloads)
    assert found == (Lora(str(tmp_path / "plain"), 0.5), Lora(str(tmp_path / "a=1"), 1.0))
    assert loras(f"{tmp_path}/a=1=2", downloads=downloads) == (Lora(str(tmp_path / "a=1"), 2.0),)


def test_a_download_needs_no_path(downloads: Path, whole: None) -> None:
    folder = downloads / "hf" / "alice--my-lora" / COMMIT
    assert loras("alice/my-lora=0.5", downloads=downloads) == (Lora(str(folder), 0.5),)
    assert loras(f"alice/my-lora@{COMMIT[:12]}", downloads=downloads)[0].name == "my-lora"
    with pytest.raises(UsageError, match="bert/my-lora@0123456789ab"):
        loras("my-lora", downloads=downloads)


def test_one_that_is_not_complete_is_none(downloads: Path) -> None:
    with pytest.raises(UsageError) as caught:
        loras("alice/my-lora", downloads=downloads)
    assert caught.value.key == "attach.no_folder"


@pytest.mark.parametrize(
    ("text", "key"),
    [("nowhere", "attach.no_folder"), ("", "attach.no_folder"), ("~nobody-of-that-name/x", "attach.no_folder"),
     ("x" * 5000, "attach.no_folder"), ("=1", "attach.syntax"), ("HERE=x", "attach.syntax"),
     ("HERE=nan", "attach.scale"), ("HERE=1e999", "attach.scale"), ("HERE=101", "attach.scale")],
)  # fmt: skip
def test_what_cannot_be_meant(text: str, key: str, tmp_path: Path, downloads: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError) as caught:
        loras(text.replace("HERE", f"{tmp_path}/here"), downloads=downloads)
    assert caught.value.key == key


def test_the_flag_is_there_for_the_app_chat_and_bench() -> None:
    parser = build_parser()
    assert parser.parse_args([]).attach == []
    assert parser.parse_args(["--lora", "a", "--lora", "b=2"]).attach == ["a", "b=2"]
    for command in ("chat", "bench"):
        assert parser.parse_args([command, "m", "--lora", "a"]).attach == ["a"]
        assert parser.parse_args([command, "m"]).attach == []
    assert parser.parse_args(["setup", "--lora", "x:2"]).attach == []  # a merge is something else


@pytest.mark.parametrize(
    ("typed", "after"),
    [
        ("/lora", None),
        ("/lora off", ()),
        ("/lora reset", None),
        ("/lora bob", (("bob", 0.5),)),
        ("/lora bob=2", (("ada", 1.0), ("bob", 2.0))),
        ("/lora ada = 0", (("ada", 0.0), ("bob", 0.5))),
    ],
)
def test_switching(typed: str, after: tuple[tuple[str, float], ...] | None) -> None:
    assert is_command(typed)
    assert switched(typed, TWO, Sampling()).loras == after


@pytest.mark.parametrize(
    ("typed", "key"),
    [("/lora carol", "attach.unknown"), ("/lora ada=x", "attach.syntax"), ("/lora ada=1000", "attach.scale")],
)
def test_switching_to_what_is_not_there(typed: str, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        switched(typed, TWO, Sampling())
    assert caught.value.key == key


def test_words() -> None:
    assert not is_command("/lorax")
    assert not is_command("a /lora")
    assert told(TWO, Sampling(), "en") == "LoRAs now: ada = 1, bob = 0.5"
    assert told(TWO, Sampling(loras=()), "en") == "LoRAs now: none"
    assert "ada, bob" in usage(TWO, "en")
