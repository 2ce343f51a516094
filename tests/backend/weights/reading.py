"""What the tests of readers, transforms and writers share: a checkpoint as torch tensors, bit for bit."""

from collections.abc import Mapping

import torch

from backend.weights.checkpoint import Checkpoint, Tensor
from tests.backend.weights.make import Weights


def as_torch(tensor: Tensor, slab_bytes: int = 1000) -> torch.Tensor:
    slabs = [torch.from_numpy(slab.copy()) for slab in tensor.slabs(slab_bytes)]
    whole = torch.cat(slabs)
    return whole.view(torch.bfloat16) if tensor.dtype == "BF16" else whole


def loaded(checkpoint: Checkpoint, slab_bytes: int = 1000) -> Weights:
    found = {name: as_torch(tensor, slab_bytes) for name, tensor in checkpoint.items()}
    checkpoint.check_sources()
    return found


def same_bits(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        bits = torch.int16 if left[name].dtype.itemsize == 2 else torch.int32
        assert torch.equal(left[name].contiguous().view(bits), right[name].contiguous().view(bits)), name
    return True
