"""Number formats against torch, for every 16-bit pattern; numbers that a format cannot hold."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import UsageError, WeightsError
from backend.weights.cast import cast, cast_tensor
from backend.weights.checkpoint import Tensor
from backend.weights.dtypes import NUMPY
from backend.weights.huggingface import open_huggingface
from tests.backend.weights.make import TORCH, Tiny, weights, write_hf
from tests.backend.weights.reading import as_torch, loaded, same_bits


def stored(values: torch.Tensor, dtype: str) -> Tensor:
    array = values.view(torch.uint16).numpy() if dtype == "BF16" else values.numpy()
    assert array.dtype == NUMPY[dtype]
    return Tensor(dtype, tuple(values.shape), lambda start, stop: array[start:stop].copy())


@pytest.mark.parametrize("source", ["F16", "BF16"])
@pytest.mark.parametrize("target", ["F16", "BF16", "F32"])
def test_every_pattern_of_sixteen_bits(source: str, target: str) -> None:
    patterns = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(TORCH[source])
    wanted = patterns.to(TORCH[target])
    kept = patterns.isfinite() & wanted.isfinite()
    patterns, wanted = patterns[kept].view(-1, 1), wanted[kept].view(-1, 1)
    assert torch.equal(as_torch(cast_tensor(stored(patterns, source), target, name="a")), wanted)


def test_single_precision_is_rounded_to_nearest_even() -> None:
    values = torch.tensor([1 + 2**-11, 1 + 3 * 2**-11, 65519.0, 2**-25, 1 + 2**-8]).view(-1, 1)
    for target in ("F16", "BF16"):
        found = as_torch(cast_tensor(stored(values, "F32"), target, name="a"))
        assert torch.equal(found, values.to(TORCH[target]))


def test_a_whole_checkpoint(tmp_path: Path) -> None:
    found = weights(Tiny(dtype="BF16"))
    checkpoint = open_huggingface(write_hf(tmp_path, Tiny(dtype="BF16"), found))
    single = cast(checkpoint, "F32")
    assert (single.dtype, single.nbytes) == ("F32", 2 * checkpoint.nbytes)
    assert same_bits(loaded(single), {name: tensor.float() for name, tensor in found.items()})
    assert single.made_of != checkpoint.made_of
    assert cast(checkpoint, "BF16")["lm_head.weight"] is checkpoint["lm_head.weight"]
    with pytest.raises(UsageError):
        cast(checkpoint, "F8")


@pytest.mark.parametrize("source", ["BF16", "F32"])
def test_numbers_that_would_become_infinite_are_counted(source: str) -> None:
    values = torch.ones(300, 10)
    values[5, 3], values[299, 0] = 65520.0, -1e6  # the first that rounds up to infinity, and one far beyond
    values[7, 7] = 32768.0
    tensor = cast_tensor(stored(values.to(TORCH[source]), source), "F16", name="model.norm.weight")
    assert tensor.rows(6, 8)[1, 7] == 32768
    with pytest.raises(WeightsError, match=r"model\.norm\.weight.* 2 numbers") as refused:
        list(tensor.slabs(1000))
    assert refused.value.key == "cast.overflow"
    assert refused.value.hint is not None


def test_numbers_that_were_infinite_before_are_not_casts_fault() -> None:
    values = torch.tensor([[1.0, float("inf")]])
    assert np.isinf(cast_tensor(stored(values, "F32"), "F16", name="a").array()).sum() == 1


def test_widening_does_without_torch() -> None:
    code = (
        "import sys, numpy as np; from backend.weights.arithmetic import cast;"
        "print(cast(np.array([0x3F80], np.uint16), source='BF16', target='F32')[0],"
        " cast(np.ones(1, np.float16), source='F16', target='F32')[0], 'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "1.0", "False"]
