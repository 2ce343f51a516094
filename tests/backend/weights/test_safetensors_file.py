"""Reading against the safetensors library, and the malformed files that it partly lets pass."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from backend.errors import WeightsError
from backend.weights.safetensors_file import file_order, header_bytes, read_safetensors

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
         torch.bool, torch.float64]  # fmt: skip


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


@given(
    st.dictionaries(
        st.text("abz.19é", min_size=1, max_size=6),
        st.tuples(st.sampled_from(TYPES), st.lists(st.integers(1, 4), min_size=1, max_size=3)),
        min_size=1,
        max_size=6,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_header_and_order_are_the_librarys(tmp_path: Path, wanted: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    tensors = {name: torch.zeros(*shape, dtype=dtype) for name, (dtype, shape) in wanted.items()}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    ours = read_safetensors(path)
    assert list(ours) == file_order(ours)
    header = header_bytes((name, ours[name]) for name in file_order(ours))
    assert path.read_bytes().startswith(header)
    assert path.stat().st_size == len(header) + sum(tensor.nbytes for tensor in ours.values())


def test_numbers_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(5, 3).half(), "b": torch.randn(4).bfloat16(), "c": torch.tensor(2.0)}
    save_file(tensors, tmp_path / "x.safetensors")
    ours = read_safetensors(tmp_path / "x.safetensors")
    assert np.array_equal(ours["a"].rows(1, 4), tensors["a"][1:4].numpy())
    assert ours["b"].array().tobytes() == tensors["b"].view(torch.uint16).numpy().tobytes()
    assert ours["c"].array().tolist() == [2.0]


def entry(dtype: object = "F16", shape: object = (2,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD = {
    "overlap": ({"a": entry(), "b": entry(offsets=[2, 6])}, bytes(6), "weights.offsets"),
    "hole": ({"a": entry(), "b": entry(offsets=[6, 10])}, bytes(10), "weights.offsets"),
    "trailing": ({"a": entry()}, bytes(9), "weights.trailing_bytes"),
    "truncated": ({"a": entry()}, bytes(3), "weights.truncated"),
    "wrong size": ({"a": entry(shape=[3])}, bytes(4), "weights.header_entry"),
    "negative": ({"a": entry(shape=[-2], offsets=[4, 0])}, bytes(4), "weights.header_entry"),
    "overflow": ({"a": entry(shape=[1 << 62, 4])}, bytes(4), "weights.header_entry"),
    "unknown dtype": ({"a": entry(dtype="Q4")}, bytes(4), "files.dtype_foreign"),
    "dtype no text": ({"a": entry(dtype=["F16"])}, bytes(4), "weights.header_entry"),
    "true as a size": ({"a": entry(shape=[True, True], offsets=[0, 2])}, bytes(2), "weights.header_entry"),
    "no tensors": ({"__metadata__": {"format": "pt"}}, b"", "weights.tensor_count"),
    "not an object": (b"[1,2]", b"", "weights.not_safetensors"),
    "key twice": (
        b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        bytes(4),
        "weights.json_bad",
    ),
    "deep": (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", b"", "weights.json_bad"),
    "half a character": (b'{"\\ud800":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}', b"ab", "weights.json_bad"),
    "half a character in a list": (b'{"a":["x\\uDFFFy"]}', b"", "weights.json_bad"),
    "no utf-8": (b'{"\xff":1}', b"", "weights.json_bad"),
    "no JSON": (b'{"a": nothing}', b"", "files.json_syntax"),
}


@pytest.mark.parametrize(("header", "data", "key"), BAD.values(), ids=BAD.keys())
def test_malformed_files_are_refused(tmp_path: Path, header: object, data: bytes, key: str) -> None:
    with pytest.raises(WeightsError) as refused:
        read_safetensors(raw_file(tmp_path / "x.safetensors", header, data))
    assert refused.value.key == key
    assert "x.safetensors" in refused.value.text()


@pytest.mark.parametrize(
    ("length", "key"),
    [(1 << 40, "files.header_too_large"), (0, "weights.not_safetensors"), (5000, "weights.truncated")],
)
def test_header_lengths_that_cannot_be(tmp_path: Path, length: int, key: str) -> None:
    with pytest.raises(WeightsError) as refused:
        read_safetensors(raw_file(tmp_path / "x.safetensors", {"a": entry()}, bytes(4), length))
    assert refused.value.key == key


@pytest.mark.parametrize("length", [640, 0x5A4D, 0x8B1F, 0x0380])
def test_a_header_whose_length_looks_like_another_format(tmp_path: Path, length: int) -> None:
    text = json.dumps({"a": entry()}).ljust(length).encode()
    assert list(read_safetensors(raw_file(tmp_path / "x.safetensors", text, bytes(4)))) == ["a"]


def test_truncation_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.randn(6, 4), "b": torch.randn(3)}, path)
    raw = path.read_bytes()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(WeightsError):
            read_safetensors(path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.randn(600, 4)}, path)
    tensor = read_safetensors(path)["a"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cut off"):
        tensor.array()
