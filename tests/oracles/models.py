"""The models that both sides work on: the reference tools (scripts beside this one, each in a virtual environment of
its own) and our pipeline (``tests/backend/weights/test_oracles.py``). Same numbers, same bytes, whatever the versions.

The numbers come from PCG64's raw words, whose stream is fixed, and never from a random function of numpy or torch. What
meets in a matrix product is a small integer times a power of two: then a float32 product is exact whatever the
processor adds first, and a stored hash holds on every machine.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tests.backend.weights.make import TORCH, Tiny, Weights

NAMES = {dtype: name for name, dtype in TORCH.items()}


@dataclass(frozen=True)
class Model(Tiny):
    """A small Llama. Its sizes give the same feed-forward size by the formulas of every transformers version."""

    hidden: int = 96
    layers: int = 1
    heads: int = 8
    kv_heads: int = 8
    vocab: int = 320
    norm_eps: float = 1e-06
    biased: bool = False  # q, k, v and o have biases, as no published LLaMA
    tied: bool = False  # the embeddings are the head too
    extra: tuple[tuple[str, object], ...] = ()  # more keys of params.json

    def params(self) -> dict[str, object]:
        return super().params() | {"norm_eps": self.norm_eps} | dict(self.extra)

    def config(self) -> dict[str, object]:
        own = {"rms_norm_eps": self.norm_eps, "attention_bias": self.biased, "tie_word_embeddings": self.tied}
        return super().config() | own


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Return every tensor's shape under its Hugging Face name, in the model's order."""
    hidden, ffn, keys = model.hidden, model.ffn, model.kv_heads * model.head_dim
    parts: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (ffn, hidden),
        "mlp.up_proj.weight": (ffn, hidden),
        "mlp.down_proj.weight": (hidden, ffn),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if model.biased:
        parts |= {
            name.replace("weight", "bias"): shape[:1] for name, shape in parts.items() if name.startswith("self_attn")
        }
    layers = {f"model.layers.{at}.{name}": shape for at in range(model.layers) for name, shape in parts.items()}
    found = {"model.embed_tokens.weight": (model.vocab, hidden), **layers, "model.norm.weight": (hidden,)}
    return found if model.tied else found | {"lm_head.weight": (model.vocab, hidden)}


def words(name: str, count: int) -> "np.ndarray[tuple[int], np.dtype[np.uint32]]":
    """Return random 32-bit words, the same on every machine and in every version."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.PCG64(seed).random_raw(-(-count // 2)).view(np.uint32)[:count]


def numbers(name: str, shape: tuple[int, ...], dtype: str, *, power: int = -2, centre: float = 0.0) -> torch.Tensor:
    """Return numbers of either sign below 2**power, over eight binary orders of size, around ``centre``.

    Many bits, subnormal halves and zeros of both signs among them: what rounding has to get right.
    """
    raw = words(name, int(np.prod(shape)))
    found = np.ldexp((raw & 0xFFFF).astype(np.int32) - 0x8000, power - 15 - (raw >> 16 & 7).astype(np.int32))
    found = found.astype(np.float32) + np.float32(centre)
    found[raw >> 24 == 0] = -0.0
    return torch.from_numpy(found.reshape(shape)).to(TORCH[dtype])


def integers(name: str, shape: tuple[int, ...], dtype: str, *, bound: int = 100, power: int = -11) -> torch.Tensor:
    """Return whole numbers from -bound to bound, times 2**power: their products and sums are exact in float32."""
    raw = (words(name, int(np.prod(shape))) >> 8) % (2 * bound + 1)
    found = np.ldexp(raw.astype(np.float32) - np.float32(bound), power)
    return torch.from_numpy(found.reshape(shape)).to(TORCH[dtype])


def weights(model: Model, seed: str, *, power: int = -2, norm: float = 1.0) -> Weights:
    """Return a model's weights; ``norm`` is what its norm weights lie around (1: a model, 0: a difference)."""
    return {
        name: numbers(f"{seed}/{name}", shape, model.dtype, power=power, centre=norm if len(shape) == 1 else 0.0)
        for name, shape in shapes(model).items()
    }


def digest(dtype: str, shape: Iterable[int], parts: Iterable[bytes]) -> str:
    """Return the hash of a tensor: its number format, its shape and its bytes."""
    found = hashlib.sha256(f"{dtype} {list(shape)} ".encode())
    for part in parts:
        found.update(part)
    return found.hexdigest()[:12]


def digests(found: Mapping[str, torch.Tensor]) -> str:
    """Return the hash of every tensor in the order of their names, in one line.

    Left out is what every version computes anew.
    """
    return " ".join(
        digest(NAMES[tensor.dtype], tensor.shape, [tensor.contiguous().view(torch.uint8).numpy().tobytes()])
        for name, tensor in sorted(found.items())
        if not name.endswith("rotary_emb.inv_freq")
    )


def read_folder(folder: Path) -> Weights:
    """Return all tensors of a folder that a reference tool wrote."""
    found: Weights = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            found |= load_file(path)
        elif path.suffix == ".bin" and path.name.startswith("pytorch_model"):
            found |= torch.load(path, map_location="cpu", weights_only=True)
    return found


_STORE = Path(__file__).with_name("hashes.json")


def keep(oracle: str, case: str, *, version: str, result: object) -> None:
    """Note what one version of a reference tool made of a case; versions that agree share an entry."""
    table = json.loads(_STORE.read_text()) if _STORE.exists() else {}
    entries = table.setdefault(oracle, {}).setdefault(case, [])
    for entry in entries:
        entry["versions"] = [other for other in entry["versions"] if other != version]
    same = next((entry for entry in entries if entry["versions"] and entry["result"] == result), None)
    if same is None:
        entries.append(same := {"versions": [], "result": result})
    same["versions"] = sorted([*same["versions"], version])
    table[oracle][case] = [entry for entry in entries if entry["versions"]]
    _STORE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def stored(oracle: str, case: str) -> dict[str, Any]:
    """Return version -> what that version made of a case."""
    entries = json.loads(_STORE.read_text())[oracle][case]
    found = {version: entry["result"] for entry in entries for version in entry["versions"]}
    return dict(sorted(found.items(), key=lambda item: [int(part) for part in item[0].split(".")]))
