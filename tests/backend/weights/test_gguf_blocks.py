"""Blocks of GGUF: the same bytes as the reference writes, and numbers near the source."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize, quantize

from backend.errors import UsageError
from backend.weights import gguf_blocks
from backend.weights.gguf_blocks import FORMATS, encode, fitting

ROWS = (np.random.default_rng(1).standard_normal((7, 512)) * 0.05).astype(np.float32)


def kind(name: str) -> GGMLQuantizationType:
    return GGMLQuantizationType(FORMATS[name].number)


@pytest.mark.parametrize("name", FORMATS)
def test_the_numbers_are_those_of_the_package(name: str) -> None:
    assert kind(name).name == name
    assert encode(ROWS, dtype="F32", target=name).nbytes == FORMATS[name].nbytes(ROWS.shape)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_blocks_are_the_references_bytes(name: str, dtype: str) -> None:
    if dtype == "BF16":
        source = (ROWS.view(np.uint32) >> 16).astype(np.uint16)
        wide = (source.astype(np.uint32) << 16).view(np.float32)
    else:
        source = ROWS.astype(np.float16 if dtype == "F16" else np.float32)
        wide = source.astype(np.float32)
    found = encode(source, dtype=dtype, target=name)
    assert found.tobytes() == quantize(wide, kind(name)).tobytes()


@pytest.mark.parametrize(("name", "most"), [("Q8_0", 0.006), ("Q6_K", 0.025), ("Q4_K", 0.09), ("Q4_0", 0.11)])
def test_blocks_stay_near_the_source(name: str, most: float) -> None:
    found = dequantize(encode(ROWS, dtype="F32", target=name).reshape(len(ROWS), -1), kind(name))
    error = np.sqrt(np.mean((found - ROWS) ** 2)) / 0.05
    assert 0.001 < error < most


def test_halves_pass_bit_by_bit() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    assert encode(halves, dtype="F16", target="F16").tobytes() == halves.tobytes()
    assert encode(ROWS, dtype="F32", target="F32").tobytes() == ROWS.tobytes()
    assert encode(ROWS, dtype="F32", target="F16").tobytes() == ROWS.astype(np.float16).tobytes()


def test_rows_that_are_a_part_of_a_larger_array() -> None:
    part = ROWS[:, ::2]
    whole = np.ascontiguousarray(part)
    assert encode(part, dtype="F32", target="Q8_0").tobytes() == encode(whole, dtype="F32", target="Q8_0").tobytes()


@pytest.mark.parametrize(
    ("wanted", "columns", "found"),
    [
        ("Q4_K", 4096, "Q4_K"),
        ("Q4_K", 192, "Q4_0"),
        ("Q6_K", 192, "Q8_0"),
        ("Q8_0", 48, "F16"),
        ("Q4_K", 20, "F16"),
        ("F16", 7, "F16"),
    ],
)
def test_rows_that_do_not_divide_get_the_next_format(wanted: str, columns: int, found: str) -> None:
    assert fitting(wanted, columns) == found


def test_a_missing_library_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install xllamacpp"):
        gguf_blocks._quantise.__wrapped__()
