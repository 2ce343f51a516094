"""Local sources: listed without reading, looked at, and compared with the sums they were published with."""

import hashlib
import os
from pathlib import Path

import pytest

from backend.errors import Cancelled, SourceError
from backend.events import Log, Progress
from backend.sources.folder import check_source, fetch_bytes, open_source
from backend.sources.source import Source


def never() -> bool:
    return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "consolidated.00.pth").write_bytes(b"w" * 5_000_000)
    (tmp_path / "params.json").write_bytes(b"{}")
    rows = [f"{hashlib.md5(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(tmp_path.iterdir())]
    (tmp_path / "checklist.chk").write_text("".join(rows), encoding="utf-8")
    return tmp_path


def check(source: Source) -> list[Progress | Log]:
    return list(check_source(source, look=Path.read_bytes, cancelled=never))


def test_sizes_are_known_before_reading(folder: Path) -> None:
    source = open_source(str(folder))
    assert source.weight_bytes == 5_000_000
    assert source.bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_what_has_a_published_sum_is_read_once_and_counted(folder: Path) -> None:
    (folder / "large.pth").write_bytes(b"w" * 100)
    source = open_source(str(folder))
    events = check(source)
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1].done == progress[-1].total == 5_000_002
    assert fetch_bytes(source) == (5_000_002, 0)
    assert len(progress) >= 3
    assert [event.message.params["count"] for event in events if isinstance(event, Log)] == [2]


def test_what_has_none_is_looked_at_and_not_read(tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin", "config.json", "vocab.txt", "training_args.bin"):
        (tmp_path / name).write_bytes(b"x" * 9)
    source, seen = open_source(str(tmp_path)), list[Path]()
    assert list(check_source(source, look=seen.append, cancelled=never)) == []
    # The .bin files are not used beside .safetensors, and may well be pointers that nobody fetched.
    assert [path.name for path in seen] == ["model.safetensors", "config.json"]
    assert fetch_bytes(source) == (0, 0)


def test_the_tokenizers_own_list_in_the_folder_above_counts(tmp_path: Path) -> None:
    folder = tmp_path / "7B"
    folder.mkdir()
    (folder / "consolidated.00.pth").write_bytes(b"w")
    (folder / "params.json").write_bytes(b"{}")
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    good = hashlib.md5(b"pieces").hexdigest()
    (tmp_path / "tokenizer_checklist.chk").write_text(f"{good}  tokenizer.model\n")
    source = open_source(str(folder))
    assert fetch_bytes(source) == (6, 0)
    assert [type(event) for event in check(source)] == [Progress, Log]
    (tmp_path / "tokenizer.model").write_bytes(b"Pieces")
    with pytest.raises(SourceError, match=r"tokenizer\.model[\s\S]+delete tokenizer_checklist\.chk"):
        check(source)


def test_a_shard_that_is_listed_and_missing_is_named(folder: Path) -> None:
    with (folder / "checklist.chk").open("a") as file:
        file.write("0" * 32 + "  consolidated.01.pth\n" + "0" * 32 + "  ../evil.pth\n" + "0" * 32 + "  notes.md\n")
    with pytest.raises(SourceError) as caught:
        check(open_source(str(folder)))
    assert caught.value.key == "sources.listed_missing"
    assert "consolidated.01.pth" in caught.value.text()
    assert "checklist.chk" in str(caught.value.hint and caught.value.text())


def test_a_list_that_is_no_list_is_no_harm(folder: Path) -> None:
    (folder / "checklist.chk").write_bytes(b"\xff\x00" * 500_000)
    assert check(open_source(str(folder))) == []


def test_a_flipped_byte_is_found_and_both_sums_are_named(folder: Path) -> None:
    path = folder / "consolidated.00.pth"
    data = bytearray(path.read_bytes())
    data[1234] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        check(open_source(str(folder)))
    assert "consolidated.00.pth" in caught.value.text()
    assert hashlib.md5(data).hexdigest() in caught.value.text()


def test_reading_stops_when_asked(folder: Path) -> None:
    with pytest.raises(Cancelled):
        list(check_source(open_source(str(folder)), look=Path.stat, cancelled=lambda: True))


def test_a_folder_without_weights_lists_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_bytes(b"hello")
    with pytest.raises(SourceError, match=r"readme\.txt"):
        open_source(str(tmp_path))


def test_a_file_is_answered_with_its_folder(folder: Path) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(str(folder / "params.json"))
    assert str(folder) in (caught.value.text())


@pytest.mark.parametrize("spec", ["lmsys/vicuna-7b-delta-v1.1", "modelscope:a/b", "org/repo@main"])
def test_a_repository_is_not_mistaken_for_a_folder(spec: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(spec)
    assert caught.value.key == "sources.not_local"


@pytest.mark.parametrize("spec", ["/no/such/place", "./nope", "~/nope-at-all", "plain name"])
def test_a_missing_folder_is_named(spec: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(spec)
    assert caught.value.key == "sources.missing"
    assert spec in caught.value.text()


@pytest.mark.parametrize("spec", ["~nobody-of-that-name/x", "/" + "x" * 5000, "/a\0b"])
def test_a_path_that_cannot_be_is_a_sentence(spec: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(spec)
    assert caught.value.hint is not None


def test_builtin_paths_cannot_leave_the_assets() -> None:
    with pytest.raises(SourceError) as caught:
        open_source("builtin:../backend")
    assert caught.value.key == "sources.outside"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(folder: Path) -> None:
    (folder / "params.json").chmod(0)
    with pytest.raises(SourceError, match=r"params\.json"):
        check(open_source(str(folder)))
