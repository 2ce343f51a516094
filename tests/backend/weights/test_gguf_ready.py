"""Which files of a folder are the model, what they say about it, and what they may not be."""

from pathlib import Path
from typing import Any

import pytest

from backend.dimensions import Stored
from backend.errors import WeightsError
from backend.weights.gguf_head import read_head
from backend.weights.gguf_ready import (
    dimensions_in,
    files_of,
    glance,
    holds_ready,
    is_ready,
    open_ready,
    quantisation,
    stated_context,
)
from tests.backend.weights.gguf_files import USUAL, write_parts, write_tiny

PARTS = ("big-00001-of-00002.gguf", "big-00002-of-00002.gguf")


def test_a_folder_with_weights_of_its_own_is_no_ready_made_one(tmp_path: Path) -> None:
    assert is_ready(["a.gguf", "config.json", "README.md"])
    assert not is_ready(["a.gguf", "model.safetensors"])
    assert not is_ready(["config.json"])
    assert not holds_ready(tmp_path)
    assert not holds_ready(tmp_path / "gone")
    write_tiny(tmp_path / "a.gguf")
    assert holds_ready(tmp_path)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.gguf", "mmproj-a.gguf", "b.txt"], ("a.gguf",)),
        ([*reversed(PARTS), "a.imatrix.gguf"], PARTS),
    ],
)
def test_the_files_of_the_model(names: list[str], found: tuple[str, ...]) -> None:
    assert files_of(names) == found


@pytest.mark.parametrize(
    ("names", "key", "value"),
    [
        ([], "none", 0),
        (["mmproj.gguf"], "none", 0),
        (["a.gguf", "b.gguf"], "several", 2),
        (["a.gguf", *PARTS], "several", 2),
        (PARTS[1:], "part_missing", 2),
        (["a-00001-of-00000.gguf"], "part_missing", 0),
    ],
)
def test_what_is_not_one_model_says_so(names: list[str], key: str, value: int) -> None:
    with pytest.raises(WeightsError) as caught:
        files_of(names)
    assert (caught.value.key, caught.value.params["count"]) == (f"ggufready.{key}", value)


def test_a_model_in_parts_is_opened_whole(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "whole.gguf")
    folder = tmp_path / "parts"
    folder.mkdir()
    write_parts(source, folder, 1)
    ready = open_ready(folder)
    assert (ready.parameters, len(ready.heads)) == (read_head(source).parameters, 2)
    assert ready.path.name == "model-00001-of-00002.gguf"
    assert ready.bytes == sum(path.stat().st_size for path in folder.iterdir())
    write_tiny(folder / "model-00002-of-00002.gguf")  # somebody else's
    with pytest.raises(WeightsError) as caught:
        open_ready(folder)
    assert caught.value.key == "ggufready.bad_head"


def test_nothing_outside_the_folder_is_opened(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "a.gguf")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "a.gguf").symlink_to(source)
    with pytest.raises(WeightsError) as caught:
        open_ready(folder)
    assert caught.value.key == "weights.link_outside"
    assert glance(folder, ["a.gguf"]) == {}


@pytest.mark.parametrize("arch", ["t5", "clip", "nomic-bert"])
def test_what_does_not_chat_is_refused(arch: str, tmp_path: Path) -> None:
    write_tiny(tmp_path / "a.gguf", arch)
    with pytest.raises(WeightsError) as caught:
        open_ready(tmp_path)
    assert (caught.value.key, caught.value.params["kind"]) == ("ggufready.no_chat", arch)


@pytest.mark.parametrize(
    ("more", "cache"),
    [
        ({}, 2 * 4 * (16 + 16) * 2),  # layers × heads × (key + value) × bytes
        ({"attention.head_count_kv": 2}, 2 * 2 * 32 * 2),
        ({"attention.head_count_kv": [2, 0]}, 2 * 32 * 2),  # a layer without attention
        ({"attention.head_count_kv": 1, "attention.key_length": 576, "attention.value_length": 512}, 2 * 1088 * 2),
    ],
)
def test_the_cache_is_counted_layer_by_layer(more: dict[str, Any], cache: int, tmp_path: Path) -> None:
    values = read_head(write_tiny(tmp_path / "a.gguf", settings={**USUAL, **more})).values
    size = dimensions_in(values, 1000)
    assert size is not None
    assert size.stored == Stored(1000, cache)
    assert (size.vocab, size.context, stated_context(values), quantisation(values)) == (5, 512, 512, "Q8_0")


def test_four_bits_are_laid_out_anew_and_nonsense_has_no_dimensions(tmp_path: Path) -> None:
    values = dict(read_head(write_tiny(tmp_path / "a.gguf")).values)
    size = dimensions_in(values | {"general.file_type": 15}, 1000)
    assert size is not None
    assert size.stored is not None
    assert size.stored.again == 1000
    assert quantisation({"general.file_type": 15 | 1024}) == "Q4_K_M"
    assert quantisation({"general.file_type": "15"}) == quantisation({}) == ""
    for bad in (0, -1, 1 << 40, True, "x", (1,)):
        assert dimensions_in(values | {"llama.block_count": bad}, 1000) is None
