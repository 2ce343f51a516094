"""Imaginary machines and well-known models for the tables of the fit tests."""

from collections.abc import Mapping
from pathlib import Path

from backend.dimensions import Dimensions
from backend.hardware import Gpu, GpuProcess, Hardware

GB = 10**9
WITH_CUDA = {"torch": "2.13.0+cu130", "bitsandbytes": "0.50.0"}


def machine(
    ram: float | None,
    *gpus: float | None,
    disk: float | None = 500,
    held: tuple[GpuProcess, ...] = (),
    versions: Mapping[str, str | None] | None = None,
    mps: bool = False,
) -> Hardware:
    """Return a machine with so many GB of RAM free, and so many on each GPU; None is what nobody can tell."""
    free = [None if one is None else int(one * GB) for one in gpus]
    return Hardware(
        cpu="cpu",
        cores=8,
        ram_total=None if ram is None else int(ram * GB * 1.2),
        ram_free=None if ram is None else int(ram * GB),
        disk_path=Path("/"),
        disk_total=None if disk is None else int(disk * GB * 2),
        disk_free=None if disk is None else int(disk * GB),
        gpus=tuple(Gpu(index, f"Card {index}", one, one, held) for index, one in enumerate(free)),
        gpu_problem=None,
        mps=mps,
        driver=None,
        cuda_driver=None,
        python="3.11",
        system="Linux",
        versions=dict(WITH_CUDA if versions is None else versions),
    )


def llama(hidden: int, layers: int, heads: int, ffn: int, **more: int) -> Dimensions:
    """Return the dimensions of a model of LLaMA's build."""
    usual = {"kv_heads": heads, "head_dim": hidden // heads, "vocab": 32000, "context": 2048}
    return Dimensions(kind="llama", hidden=hidden, layers=layers, heads=heads, ffn=ffn, **{**usual, **more})


SEVEN, THIRTEEN = llama(4096, 32, 32, 11008), llama(5120, 40, 40, 13824)
THIRTY, SIXTY = llama(6656, 60, 52, 17920), llama(8192, 80, 64, 22016)
SEVENTY = llama(8192, 80, 64, 28672, kv_heads=8, context=4096)  # Llama 2
LLAMA3 = llama(4096, 32, 32, 14336, kv_heads=8, vocab=128256, context=8192)
