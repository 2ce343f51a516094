"""What a look into a folder finds, and which way leads out of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.library import listing
from backend.library.condition import Condition, Way
from backend.library.examine import examine
from backend.library.guess import guess_template
from backend.library.repair import repair
from tests.backend.library.folders import TINY, bare, early, pointer, write_lora
from tests.backend.weights.make import Tiny


def faults(found: Condition) -> dict[str, Way]:
    return {fault.say.key.removesuffix(".say"): fault.way for fault in found.faults}


def test_an_early_upload_has_every_mistake_named(tmp_path: Path) -> None:
    found = examine(early(tmp_path / "vicuna-7b-v1.1"))
    names = ("no_template", "tokenizer_class", "special_tokens", "architecture", "token_ids", "no_fast")
    assert faults(found) == {f"models.fault.{name}": Way.MEND for name in names}
    assert all(fault.hint is not None for fault in found.faults)
    assert (found.template, found.guessed, found.rows, found.dtype) == ("vicuna-v1.1", True, TINY.vocab, "float16")
    assert Condition.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_bare_conversion_lacks_its_small_files_and_the_row_for_padding(tmp_path: Path) -> None:
    tiny = Tiny(vocab=TINY.vocab + 1, layers=1)
    found = examine(bare(tmp_path / "mine", tiny, vocab_size=TINY.vocab, eos_token_id=1))
    expected = {"no_template", "special_tokens", "no_pad", "vocab_size", "no_generation", "token_ids", "no_fast"}
    assert {name.rpartition(".")[2] for name in faults(found)} == expected
    assert (found.template, found.guessed) == (None, False)


def _adapter(folder: Path) -> Path:
    write_lora(folder, TINY, base_model_name_or_path="huggyllama/llama-7b")
    return folder


def _adapter_with_words(folder: Path) -> Path:
    write_lora(folder, TINY, vocab=TINY.vocab + 3)
    return folder


def _raw(folder: Path) -> Path:
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(TINY.params()))
    (folder / "consolidated.01.pth").write_bytes(b"x")
    return folder


def _half(folder: Path) -> Path:
    bare(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return folder


def _shard_lost(folder: Path) -> Path:
    early(folder)
    (folder / "pytorch_model-00002-of-00004.bin").unlink()
    return folder


def _foreign_words(folder: Path) -> Path:
    bare(folder, Tiny(vocab=300, layers=1))
    return folder


def _pipe(folder: Path) -> Path:
    folder.mkdir()
    os.mkfifo(folder / "config.json")
    return folder


def _crowd(folder: Path) -> Path:
    folder.mkdir()
    for number in range(listing.MOST_ENTRIES + 1):
        os.close(os.open(folder / f"{number}.txt", os.O_CREAT))
    return folder


@pytest.mark.parametrize(
    ("make", "key", "way"),
    [
        (pointer, "weights.file_is_pointer", Way.NONE),
        (_half, "weights.truncated", Way.NONE),
        (_shard_lost, "weights.shard_missing", Way.NONE),
        (_foreign_words, "weights.tokenizer_too_large", Way.NONE),
        (_raw, "weights.meta_gap", Way.NONE),
        (_adapter, "models.fault.adapter_beside", Way.MERGE),
        (_adapter_with_words, "models.fault.adapter", Way.MERGE),
        (lambda folder: bare(folder, norm=0.0, scale=0.001), "models.fault.delta", Way.DELTA),
        (_pipe, "weights.nothing_here", Way.NONE),
        (_crowd, "library.crowded", Way.NONE),
    ],
)
def test_what_cannot_be_mended_here_is_named_with_its_way_out(
    tmp_path: Path, make: Callable[[Path], Path], key: str, way: Way
) -> None:
    found = examine(make(tmp_path / "odd"))
    assert faults(found) == {key: way}
    assert found.faults[0].hint is not None


def test_an_adapter_tells_its_base(tmp_path: Path) -> None:
    assert examine(_adapter(tmp_path / "lora")).base == "huggyllama/llama-7b"


def test_a_configuration_of_sixteen_megabytes_is_not_read(tmp_path: Path) -> None:
    folder = bare(tmp_path / "large")
    (folder / "config.json").write_bytes(b'{"a": "' + b"x" * (16 << 20) + b'"}')
    assert faults(examine(folder)) == {"weights.json_too_large": Way.NONE}


def test_a_repaired_folder_is_well(tmp_path: Path) -> None:
    folder = early(tmp_path / "old")
    repair(folder, template="vicuna-v1.1")
    found = examine(folder)
    assert (found.faults, found.template) == ((), "vicuna-v1.1")


@pytest.mark.parametrize(
    ("name", "rows", "template"),
    [
        ("vicuna-13b-v1.5-16k", 32000, "vicuna-v1.1"), ("Vicuna_7B", 32001, "vicuna-v0"), ("koala-7b", 32000, "koala"),
        ("stable-vicuna-13b", 32001, "stable-vicuna"), ("alpaca-lora", 32000, "alpaca"),
        ("alpaca-7b", 32001, "stanford-alpaca"), ("Chinese-Alpaca-Plus-7B", 49954, "chinese-alpaca"),
        ("Llama-2-7b-chat-hf", 32000, "llama-2"), ("Meta-Llama-3-8B-Instruct", 128256, "llama-3"),
        ("llama-7b", 32000, None), ("mine", 32000, None),
    ],
)  # fmt: skip
def test_a_name_suggests_a_template_and_decides_nothing(name: str, rows: int, template: str | None) -> None:
    assert guess_template(name, rows) == template
