import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.weights.checkpoint import SHORT_TAIL, Tensor
from backend.weights.dtypes import NUMPY, all_finite, itemsize, to_float32


def whole(array: np.ndarray, unit: int = 1) -> Tensor:
    return Tensor("F32", array.shape, lambda start, stop: array[start:stop], unit)


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 5),
    unit=st.integers(1, 40),
    slab_bytes=st.integers(1, 3000),
)
def test_slabs_cover_a_tensor_once_whatever_their_size(rows: int, columns: int, unit: int, slab_bytes: int) -> None:
    array = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    tensor = whole(array, unit)
    slabs = list(tensor.slabs(slab_bytes))
    assert np.array_equal(np.concatenate(slabs), array)
    most = max(slab_bytes, unit * tensor.row_bytes) + SHORT_TAIL * tensor.row_bytes
    assert all(slab.nbytes <= most for slab in slabs)
    assert all(len(slab) % unit == 0 for slab in slabs[:-1])


def test_no_slab_is_a_few_rows_at_the_end() -> None:
    slabs = list(whole(np.zeros((130, 4), np.float32)).slabs(64 * 16))
    assert [len(slab) for slab in slabs] == [64, 66]


def test_a_vector_is_a_column_of_numbers() -> None:
    tensor = whole(np.ones(7, np.float32))
    assert (tensor.length, tensor.row_bytes, tensor.nbytes) == (7, 4, 28)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("F16", 0x7C00), ("F16", 0xFC00), ("F16", 0x7E01), ("BF16", 0x7F80), ("BF16", 0xFFC0)],
)
def test_infinities_and_nans_are_seen(dtype: str, bits: int) -> None:
    array = np.zeros(5, np.uint16)
    assert all_finite(array.view(NUMPY[dtype]), dtype)
    array[3] = bits
    assert not all_finite(array.view(NUMPY[dtype]), dtype)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_finite_agrees_with_numpy(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    assert all_finite(array, "F32") == bool(np.isfinite(array).all())


def test_bfloat16_bits_become_numbers() -> None:
    assert to_float32(np.array([0x3F80, 0xC000], np.uint16), "BF16").tolist() == [1.0, -2.0]
    assert itemsize("BF16") == 2
