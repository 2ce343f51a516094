"""Random models of real LLaMA shape for the weights benchmark: a base as Meta publishes it, a delta, a LoRA.

Every tensor is a stretch of one pool of random numbers, so that ``Numbers`` can say what any row of any file is, and
nothing larger than the pool is ever in memory.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensorMode

from backend.weights.checkpoint import Tensor
from backend.weights.safetensors_file import header_bytes
from backend.weights.shape import ModelShape
from tests.backend.weights.make import meta_name

Half = NDArray[np.float16]
Shape = tuple[int, ...]

# Name -> layers and vocabulary; every width is LLaMA-7B's, so that slabs and matrices are the real ones.
SIZES: Mapping[str, tuple[int, int]] = {"0.5": (1, 8000), "3": (6, 32000), "13.5": (32, 32000)}
RANK, ALPHA = 64, 96  # a scale of 1.5: no power of two, so that rounding in the wrong place would show
BASE, DELTA, LORA = "base", "delta", "lora"
_SPREAD = {BASE: 0.02, DELTA: 0.001, LORA: 0.01}
_POOL = 33_554_393  # numbers; prime, so that no two rows of a tensor are alike
_PIECE = 256  # rows


def model_shape(size: str) -> ModelShape:
    """Return the dimensions of one of ``SIZES``."""
    layers, vocab = SIZES[size]
    return ModelShape(
        hidden=4096,
        layers=layers,
        heads=32,
        kv_heads=32,
        head_dim=128,
        ffn=11008,
        vocab=vocab,
        norm_eps=1e-6,
    )


class Numbers:
    """What every file holds."""

    def __init__(self) -> None:
        pool = np.random.default_rng(7).standard_normal(_POOL, np.float32)
        self._pools = {role: (pool * spread).astype(np.float16) for role, spread in _SPREAD.items()}

    def rows(self, role: str, name: str, shape: Shape, *, start: int, stop: int) -> Half:
        """Return rows of a tensor as its file has them; Meta's order of heads for a base."""
        pool, row = self._pools[role], int(np.prod(shape[1:]))
        first, count = (zlib.crc32(f"{role} {name}".encode()) + start * row) % _POOL, (stop - start) * row
        found = pool[first : first + count]
        if len(found) < count:
            found = np.concatenate([found, pool[: count - len(found)]])
        norm = np.float16(role == BASE and "norm" in name)
        return (found + norm if norm else found).reshape(stop - start, *shape[1:])

    def pieces(self, role: str, name: str, shape: Shape, part: tuple[slice, ...] = ()) -> Iterator[bytes]:
        """Yield a tensor, or a part of its rows and columns, as the bytes of a file."""
        first, last, _ = (part[0] if part else slice(None)).indices(shape[0])
        for start in range(first, last, _PIECE):
            found = self.rows(role, name, shape, start=start, stop=min(start + _PIECE, last))
            yield found[(slice(None), *part[1:])].tobytes()


def make_base(folder: Path, size: str, numbers: Numbers, *, shards: int = 1) -> None:
    """Write Meta's layout, each tensor cut as its parallel layers cut it; one storage for each tensor."""
    shape = model_shape(size)
    folder.mkdir(parents=True)
    params = {"dim": shape.hidden, "multiple_of": 256, "n_heads": shape.heads, "n_layers": shape.layers}
    (folder / "params.json").write_text(json.dumps(params | {"norm_eps": shape.norm_eps, "vocab_size": -1}))
    for shard in range(shards):
        sizes, data = {}, []
        for name, full in shape.expected():
            part = _part(name, full, shard, shards)
            sizes[meta_name(name)] = tuple(len(range(*cut.indices(n))) for cut, n in zip(part, full, strict=True))
            data.append(numbers.pieces(BASE, name, full, part))
        _write_torch_zip(folder / f"consolidated.{shard:02d}.pth", sizes, data)


def _part(name: str, full: Shape, shard: int, shards: int) -> tuple[slice, ...]:
    if len(full) == 1:
        return (slice(None),)
    axis = 1 if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight")) else 0
    step = full[axis] // shards
    cut = slice(shard * step, (shard + 1) * step)
    return (slice(None), cut) if axis else (cut, slice(None))


def _write_torch_zip(path: Path, sizes: Mapping[str, Shape], data: list[Iterator[bytes]]) -> None:
    """Write what torch.save writes without having it in memory: its own pickle, and the numbers piece by piece."""
    empty = path.with_suffix(".empty")
    with FakeTensorMode():
        tensors = {name: torch.empty(size, dtype=torch.float16) for name, size in sizes.items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(tensors, empty)  # holes instead of numbers
    with zipfile.ZipFile(empty) as plan, zipfile.ZipFile(path, "w") as out:
        for entry in plan.infolist():
            stem, _, key = entry.filename.rpartition("/data/")
            if not stem:
                out.writestr(entry.filename, plan.read(entry) if entry.filename.endswith("data.pkl") else b"3\n")
                continue
            with out.open(entry.filename, "w", force_zip64=True) as record:
                for piece in data[int(key)]:
                    record.write(piece)
    empty.unlink()


def make_delta(folder: Path, size: str, numbers: Numbers) -> None:
    """Write a delta as a Hugging Face folder with one safetensors file."""
    shape = model_shape(size)
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "vocab_size": shape.vocab,
    }
    (folder / "config.json").write_text(json.dumps(config))
    _write_safetensors(folder / "model.safetensors", dict(shape.expected()), numbers, DELTA)


def make_lora(folder: Path, size: str, numbers: Numbers) -> None:
    """Write a PEFT adapter of rank 64 on every linear layer of the blocks, as a .bin file."""
    folder.mkdir(parents=True)
    sizes = {}
    for name, full in model_shape(size).expected():
        if "_proj" in name:
            up, down = lora_names(name)
            sizes |= {down: (RANK, full[1]), up: (full[0], RANK)}
    _write_torch_zip(
        folder / "adapter_model.bin", sizes, [numbers.pieces(LORA, name, full) for name, full in sizes.items()]
    )
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "base_model_name_or_path": "random"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def lora_names(name: str) -> tuple[str, str]:
    """Return the adapter's keys for one tensor of the model: up [out, rank] and down [rank, in]."""
    stem = "base_model.model." + name.removesuffix(".weight")
    return f"{stem}.lora_B.weight", f"{stem}.lora_A.weight"


def _write_safetensors(path: Path, sizes: Mapping[str, Shape], numbers: Numbers, role: str) -> None:
    def nothing(start: int, stop: int) -> Half:
        raise NotImplementedError

    with path.open("wb") as out:
        out.write(header_bytes([(name, Tensor("F16", size, nothing)) for name, size in sizes.items()]))
        for name, size in sizes.items():
            for piece in numbers.pieces(role, name, size):
                out.write(piece)
