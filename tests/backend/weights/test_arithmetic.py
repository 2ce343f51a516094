"""Sums and products on slabs against the same operation on the whole, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.weights.arithmetic import add, add_low_rank
from tests.backend.weights.make import TORCH


def numpy_of(tensor: torch.Tensor) -> object:
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).clone().numpy()


def some(*shape: int, dtype: str, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(TORCH[dtype])


@pytest.mark.parametrize("left", list(TORCH))
@pytest.mark.parametrize("right", list(TORCH))
def test_a_sum_is_rounded_once(left: str, right: str) -> None:
    first, second = some(50, 7, dtype=left, seed=1), some(50, 7, dtype=right, seed=2)
    found = add(numpy_of(first), numpy_of(second), left_dtype=left, right_dtype=right)
    wanted = (first.float() + second.float()).to(TORCH[left])
    assert torch.equal(torch.from_numpy(found).view(TORCH[left]), wanted)


@given(
    rows=st.integers(64, 700),
    columns=st.integers(1, 80),
    rank=st.sampled_from([1, 8, 64]),
    dtype=st.sampled_from(list(TORCH)),
)
@settings(deadline=None, max_examples=40)
def test_a_product_in_tiles_has_the_bits_of_the_whole(rows: int, columns: int, rank: int, dtype: str) -> None:
    base = some(rows, columns, dtype=dtype, seed=rows)
    up, down = some(rows, rank, dtype="F16", seed=1), some(rank, columns, dtype="F32", seed=2)
    product = (up.float() @ down) * 1.7
    wanted = (product + base).to(TORCH[dtype])
    found = add_low_rank(numpy_of(base), numpy_of(up), numpy_of(down), scale=1.7, dtypes=(dtype, "F16", "F32"))
    assert torch.equal(torch.from_numpy(found).view(TORCH[dtype]), wanted)
