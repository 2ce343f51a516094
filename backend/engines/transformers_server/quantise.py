"""8-bit and 4-bit by bitsandbytes: how to ask for it, and one of its limits on CPUs. Knows nothing about folders."""

from typing import Any

import torch
from transformers import BitsAndBytesConfig

# bitsandbytes 0.50 repacks 4-bit matrices for CPUs with AVX-512 BF16 in blocks of 32 rows by 64 columns, and fails on
# matrices that do not divide so.
_PACK_ROWS, _PACK_COLUMNS = 32, 64


def quantisation(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return how the matrices should shrink while they are read; None for 16 bits."""
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    if bits == 4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return None


def spare_odd_shapes(model: Any) -> None:
    """Keep 4-bit matrices that do not divide into packing blocks out of the packing; they compute the plain way."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit) and (
            module.out_features % _PACK_ROWS or module.in_features % _PACK_COLUMNS
        ):
            module.support_avx512bf16_for_cpu = False
