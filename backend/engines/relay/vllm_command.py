"""How vLLM is told what Cria's options mean: its command line and environment. A pure function; starts nothing.

Flags: https://docs.vllm.ai, ``vllm serve``; all of them exist unchanged since 0.6.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from backend.engines.base import EngineOptions, Lora

PROGRAM = "vllm"
# What --max-lora-rank takes (vllm/config/lora.py); older versions end at 64 or 256, and say so.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# What loads a folder of 16-bit weights in fewer bits: FP8 computed when loading, and NF4 of bitsandbytes.
_QUANTISATION: Mapping[int, tuple[str, ...]] = {
    16: (),
    8: ("--quantization", "fp8"),
    4: ("--quantization", "bitsandbytes"),
}


def command(program: str, folder: Path, options: EngineOptions, *, port: int) -> list[str]:
    """Return the command line of a server on loopback. The key is not on it: every process listing would show it."""
    gpus = len(options.gpus) or options.num_gpus or 1
    words = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--served-model-name", folder.name, "--tensor-parallel-size", str(gpus)]
    words += _QUANTISATION[options.bits]
    if options.dtype != "auto":
        words += ["--dtype", options.dtype]
    if options.context:
        words += ["--max-model-len", str(options.context)]
    return words


def lora_name(folder: Path, lora: str) -> str:
    """Return the name under which vLLM knows a model with an adapter."""
    return f"{folder.name}:{lora}"


def lora_words(folder: Path, loras: Sequence[Lora], rank: int) -> list[str]:
    """Return the flags for adapters whose largest rank is that. JSON, since in ``name=path`` no path may have a "="."""
    if not loras:
        return []
    size = next((step for step in _RANKS if step >= rank), rank)  # beyond the last, vLLM says what it takes
    modules = [json.dumps({"name": lora_name(folder, one.name), "path": one.folder}) for one in loras]
    return ["--enable-lora", "--max-loras", str(len(loras)), "--max-lora-rank", str(size), "--lora-modules", *modules]


def environment(own: Mapping[str, str], key: str) -> dict[str, str]:
    """Return vLLM's environment: ours, the key that callers must present, and no telemetry."""
    return {**own, "VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def memory_share(cap: int, total: int) -> list[str]:
    """Return the flag for a cap of bytes on a GPU of so many; vLLM takes shares of a whole GPU."""
    return ["--gpu-memory-utilization", f"{max(0.05, min(0.98, cap / total)):.2f}"] if cap and total else []
