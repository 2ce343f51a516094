"""Listings: which files are needed, and shapes that no honest server sends."""

import json
from typing import Any

import pytest

from backend.errors import SourceError
from backend.sources.listing import Entry, Listing, RemoteFile, checked_commit, checked_entries, choose
from backend.sources.spec import Repository

SHA256, SHA1 = "0" * 64, "1" * 40
ROOT = Repository("hf", "a/b")


def chosen(*paths: str, wanted: Repository = ROOT) -> list[str]:
    return [entry.path for entry in choose([Entry(path, 100, SHA256) for path in paths], wanted)]


def test_safetensors_are_taken_before_bin_and_pth() -> None:
    files = ("config.json", "model.safetensors", "pytorch_model.bin", "original/consolidated.00.pth",
             "model.safetensors.index.json", "pytorch_model.bin.index.json", "README.md", "tokenizer.model",
             "onnx/model.onnx", "tf_model.h5", "flax_model.msgpack", "model.gguf", "chat_template.jinja")  # fmt: skip
    assert chosen(*files) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
    ]


def test_what_training_left_is_not_taken() -> None:
    files = ("config.json", "optimizer.pt", "pytorch_model.bin", "rng_state_0.pth", "training_args.bin",
             "trainer_state.json")  # fmt: skip
    assert chosen(*files) == ["config.json", "pytorch_model.bin"]


def test_meta_shards_come_with_their_checklist() -> None:
    files = ("checklist.chk", "consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model")
    assert chosen(*files) == list(files)


def test_an_adapter_is_its_two_files_and_its_tokenizer() -> None:
    files = ("adapter_config.json", "adapter_model.bin", "tokenizer.model", "special_tokens_map.json")
    assert chosen(*files) == ["adapter_config.json", "adapter_model.bin", "special_tokens_map.json", "tokenizer.model"]


def test_the_same_weights_twice_in_one_kind_are_taken_once() -> None:
    files = ("config.json", "consolidated.safetensors", "model-00001-of-00001.safetensors")
    assert chosen(*files) == ["config.json", "model-00001-of-00001.safetensors"]


def test_a_folder_or_one_archive_can_be_wanted() -> None:
    files = ("7B/params.json", "7B/consolidated.00.pth", "13B/consolidated.00.pth", "lora.zip")
    assert chosen(*files, wanted=Repository("hf", "a/b", folder="7B")) == ["7B/consolidated.00.pth", "7B/params.json"]
    assert chosen(*files, wanted=Repository("hf", "a/b", file="lora.zip")) == ["lora.zip"]


@pytest.mark.parametrize(("paths", "key", "named"), [
    (("7B/consolidated.00.pth", "README.md"), "in_folders", "tree/main/7B"),
    (("model.gguf", "README.md"), "no_weights", "model.gguf"),
    ((), "no_weights", "-"),
])  # fmt: skip
def test_nothing_to_use_says_what_there_is(paths: tuple[str, ...], key: str, named: str) -> None:
    with pytest.raises(SourceError) as caught:
        chosen(*paths)
    assert caught.value.key == f"download.{key}"
    assert named in caught.value.text()


def test_a_missing_archive_is_named() -> None:
    with pytest.raises(SourceError, match=r"lora\.zip"):
        chosen("config.json", "model.bin", wanted=Repository("hf", "a/b", file="lora.zip"))


HOSTILE: list[tuple[Any, ...]] = [
    ("../x.bin", 1, SHA256, None),
    ("a/../../x.bin", 1, SHA256, None),
    ("/etc/passwd", 1, SHA256, None),
    ("C:x.bin", 1, SHA256, None),
    ("..\\x.bin", 1, SHA256, None),
    ("a\nb.bin", 1, SHA256, None),
    ("a//b.bin", 1, SHA256, None),
    ("", 1, SHA256, None),
    (None, 1, SHA256, None),
    ("x" * 2000, 1, SHA256, None),
    ("x.bin", -1, SHA256, None),
    ("x.bin", "1", SHA256, None),
    ("x.bin", True, SHA256, None),
    ("x.bin", 1.5, SHA256, None),
    ("x.bin", 1 << 60, SHA256, None),
    ("x.bin", 1, "../../x", None),
    ("x.bin", 1, SHA256[:-1], None),
    ("x.bin", 1, SHA256.replace("0", "A"), None),
    ("x.bin", 1, None, "g" * 40),
    ("x.bin", 1, 7, None),
    ("x.bin", 1, None, None),
]


@pytest.mark.parametrize("row", HOSTILE, ids=str)
def test_a_shape_that_no_honest_server_sends_is_refused(row: tuple[Any, ...]) -> None:
    with pytest.raises(SourceError) as caught:
        checked_entries([Entry("config.json", 1, None, SHA1), Entry(*row)], "evil.example")
    assert caught.value.key == "download.bad_listing"
    assert "evil.example" in caught.value.text()


def test_a_name_twice_and_endless_lists_are_refused() -> None:
    with pytest.raises(SourceError):
        checked_entries([Entry("a.bin", 1, SHA256)] * 2, "evil.example")
    with pytest.raises(SourceError):
        checked_entries((Entry(f"{number}.bin", 1, SHA256) for number in range(10**9)), "evil.example")


@pytest.mark.parametrize("commit", [None, "main", "../../x", SHA1 + "0", SHA1.replace("1", "F"), 5])
def test_a_commit_is_forty_digits(commit: object) -> None:
    with pytest.raises(SourceError):
        checked_commit(commit, "evil.example")
    assert checked_commit(SHA1, "evil.example") == SHA1


def test_a_listing_moves_to_a_mirror_and_through_json() -> None:
    file = RemoteFile("x.bin", 5, "https://huggingface.co/a/b/resolve/1/x.bin", SHA256)
    listing = Listing("hf", "a/b", SHA1, "https://huggingface.co", (file,))
    moved = listing.at("https://hf-mirror.com")
    assert moved.files[0].url == "https://hf-mirror.com/a/b/resolve/1/x.bin"
    assert moved.files[0].identity == file.identity
    assert Listing.from_json(json.loads(json.dumps(moved.to_json()))) == moved
