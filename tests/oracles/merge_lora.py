"""Runs PEFT's merge_and_unload and stores what it made of our bases and adapters.

Each version in a virtual environment of its own, with Python 3.11, then ``python -m tests.oracles.merge_lora`` (with
names of cases: only those) in the repository's root:

    peft==0.3.0 transformers==4.31.0 tokenizers==0.13.3 accelerate==0.21.0 numpy<2 huggingface_hub<0.26 protobuf<3.21
    peft==0.6.2 transformers==4.35.2 accelerate==0.25.0 numpy<2 huggingface_hub<0.26
    peft==0.12.0 transformers==4.46.3 accelerate==1.1.1 numpy<2
    peft==0.20.0 transformers==5.0.0 accelerate

and to each torch==2.13.0 (CPU), sentencepiece, safetensors. Versions 0.7 to 0.11 round in other places and are no
yardstick.
"""

import json
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tests.backend.weights.make import Weights, write_hf
from tests.oracles.models import Model, digests, integers, keep, numbers, shapes, weights

ALL = ("0.3.0", "0.6.2", "0.12.0", "0.20.0")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Bits of A for each number format of an adapter: as many as it holds and float32 can still add up exactly.
_BOUND = {"F32": 3000, "F16": 1000, "BF16": 100}


@dataclass(frozen=True)
class Adapter:
    """One adapter as files. ``ranks`` are those that differ, by the end of a module's name; ``whole`` are modules that
    are saved whole; ``rows`` those of the vocabulary it brings; ``tokens`` the rows of the embeddings it replaces."""

    seed: str = "adapter"
    rank: int = 8
    alpha: float = 20
    dtype: str = "F32"
    targets: tuple[str, ...] = LINEAR
    ranks: tuple[tuple[str, int], ...] = ()
    whole: tuple[str, ...] = ()
    rows: int = 0
    tokens: tuple[int, ...] = ()
    embedding: bool = False
    dora: bool = False
    biases: str = ""  # the end of a bias's key; versions differ
    config: tuple[tuple[str, Any], ...] = ()

    def state(self, model: Model) -> Weights:
        """Return the tensors of the adapter's file."""
        found: Weights = {}
        model = replace(model, vocab=self.rows or model.vocab)
        for name, shape in shapes(model).items():
            module = name.removesuffix(".weight").removesuffix(".bias")
            key = f"base_model.model.{module}"
            if name.endswith(".bias"):
                if self.biases:
                    found[key + self.biases] = numbers(f"{self.seed}/{name}", shape, self.dtype)
            elif module.endswith(self.whole):
                centre = 1.0 if len(shape) == 1 else 0.0
                found[key + ".weight"] = numbers(f"{self.seed}/{name}", shape, self.dtype, centre=centre)
            elif module.endswith(self.targets):
                found |= self._pair(key, shape, next((r for end, r in self.ranks if module.endswith(end)), self.rank))
            elif module.endswith("embed_tokens"):
                found |= self._embedding(key, shape)
        return found

    def _pair(self, key: str, shape: tuple[int, ...], rank: int) -> Weights:
        if self.dora:  # rows of the sum are squared and added, which has to be exact too
            down = integers(f"{key}/A", (rank, shape[1]), self.dtype, bound=3, power=-5)
            up = integers(f"{key}/B", (shape[0], rank), self.dtype, bound=3, power=-4)
            size = numbers(f"{key}/m", shape[:1], "F32", centre=1.0)
            return {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up, f"{key}.lora_magnitude_vector": size}
        down = integers(f"{self.seed}/{key}/A", (rank, shape[1]), self.dtype, bound=_BOUND[self.dtype], power=-15)
        up = integers(f"{self.seed}/{key}/B", (shape[0], rank), self.dtype, bound=50, power=-8)
        return {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}

    def _embedding(self, key: str, shape: tuple[int, ...]) -> Weights:
        found: Weights = {}
        if self.embedding:
            found[key + ".lora_embedding_A"] = integers(f"{key}/A", (self.rank, shape[0]), self.dtype, bound=1000)
            found[key + ".lora_embedding_B"] = integers(f"{key}/B", (shape[1], self.rank), self.dtype, bound=50)
        if self.tokens:
            rows = (len(self.tokens), shape[1])
            found[key + ".token_adapter.trainable_tokens_delta"] = numbers(f"{key}/rows", rows, self.dtype)
        return found

    def write(self, folder: Path, model: Model) -> Path:
        """Write the adapter's two files."""
        folder.mkdir(parents=True)
        torch.save(self.state(model), folder / "adapter_model.bin")
        table: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "base",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.05,
            "bias": "all" if self.biases else "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "target_modules": [*self.targets, *(["embed_tokens"] if self.embedding else [])],
            "modules_to_save": list(self.whole) or None,
        }
        if self.ranks:
            table["rank_pattern"] = dict(self.ranks)
        if self.dora:
            table["use_dora"] = True
        if self.tokens:
            table["trainable_token_indices"] = {"embed_tokens": list(self.tokens)}
        (folder / "adapter_config.json").write_text(json.dumps(table | dict(self.config)))
        return folder


@dataclass(frozen=True)
class Merge:
    """A base and its adapters, in order."""

    adapters: tuple[Adapter, ...] = (Adapter(),)
    model: Model = field(default_factory=Model)
    versions: tuple[str, ...] = ALL

    @property
    def bound_by(self) -> tuple[str, ...]:
        """The versions whose bits count. Embeddings were rounded once up to 0.15, twice since: ours are the newer."""
        return self.versions[-1:] if any(adapter.embedding for adapter in self.adapters) else self.versions

    def weights(self) -> Weights:
        """Return the base's weights."""
        found = weights(self.model, "base")
        if any(adapter.dora for adapter in self.adapters):
            for name, shape in shapes(self.model).items():
                if "_proj" in name:
                    found[name] = integers(f"base/{name}", shape, self.model.dtype, bound=50, power=-9)
        return found

    def write(self, folder: Path) -> tuple[Path, list[Path]]:
        """Write base and adapters; returns their folders."""
        base = write_hf(folder / "base", self.model, self.weights())
        return base, [adapter.write(folder / f"{at}", self.model) for at, adapter in enumerate(self.adapters)]


_BF16 = Model(dtype="BF16")
_TWO = Model(layers=2, kv_heads=2)
_NEW = ALL[2:]

CASES = {
    "fp16": Merge(),
    "bf16": Merge(model=_BF16),
    "fp32": Merge(model=Model(dtype="F32")),
    "fp16-adapter-fp16": Merge((Adapter(dtype="F16"),)),
    "bf16-adapter-fp16": Merge((Adapter(dtype="F16"),), _BF16),
    "fp16-adapter-bf16": Merge((Adapter(dtype="BF16"),)),
    "bf16-adapter-bf16": Merge((Adapter(dtype="BF16"),), _BF16),
    "rank-64": Merge((Adapter(rank=64, alpha=128),)),
    "rank-12-alpha-7": Merge((Adapter(rank=12, alpha=7),), _TWO),
    "bf16-rank-12-alpha-7.5": Merge((Adapter(rank=12, alpha=7.5),), replace(_TWO, dtype="BF16")),
    "rank-3": Merge((Adapter(rank=3, alpha=16, targets=("q_proj", "v_proj")),)),
    "rslora": Merge((Adapter(rank=12, config=(("use_rslora", True),)),), versions=_NEW),
    "rank-pattern": Merge((Adapter(ranks=(("q_proj", 4), ("layers.1.mlp.down_proj", 16))),), _TWO, versions=ALL[1:]),
    "alpha-pattern": Merge(
        (Adapter(config=(("alpha_pattern", {"k_proj": 3, "layers.0.mlp.up_proj": 50}),)),), _TWO, versions=ALL[1:]
    ),
    "regex-pattern": Merge(
        (
            Adapter(
                config=(("alpha_pattern", {r"layers\.1\..*_proj": 3, r"^model\.layers\.0\.self_attn\.[qk]_proj": 5}),)
            ),
        ),
        _TWO,
        versions=("0.20.0",),
    ),
    "rslora-patterns": Merge(
        (Adapter(ranks=(("o_proj", 5),), config=(("use_rslora", True), ("alpha_pattern", {"o_proj": 9}))),),
        versions=_NEW,
    ),
    "whole-head": Merge((Adapter(whole=("lm_head",)),)),
    "whole-norms": Merge((Adapter(whole=("input_layernorm", "model.norm")),), versions=_NEW),
    "grown": Merge((Adapter(whole=("embed_tokens", "lm_head"), rows=333),)),
    "grown-adapter-fp16-base-bf16": Merge((Adapter(whole=("embed_tokens", "lm_head"), rows=333, dtype="F16"),), _BF16),
    "two": Merge((Adapter(), Adapter("second", 12, 7))),
    "two-bf16": Merge((Adapter(), Adapter("second", 12, 7)), _BF16),
    "two-grown": Merge(
        (
            Adapter(whole=("embed_tokens", "lm_head"), rows=333, dtype="F16"),
            Adapter("second", 64, 128, whole=("embed_tokens", "lm_head"), rows=334),
        )
    ),
    "dora": Merge((Adapter(dora=True, alpha=8),), versions=_NEW),
    "dora-bf16": Merge((Adapter(dora=True, alpha=8),), _BF16, versions=_NEW),
    "dora-fp32": Merge((Adapter(dora=True, alpha=16),), Model(dtype="F32"), versions=_NEW),
    "dora-adapter-fp16": Merge((Adapter(dora=True, alpha=16, dtype="F16", rank=8),), versions=_NEW),
    "embedding": Merge((Adapter(embedding=True, alpha=7, rank=12),), versions=ALL[1:]),  # 0.3.0 cannot
    "embedding-bf16": Merge((Adapter(embedding=True, alpha=7, rank=12),), _BF16, versions=ALL[1:]),
    "embedding-rslora": Merge((Adapter(embedding=True, rank=12, config=(("use_rslora", True),)),), versions=_NEW),
    "tokens": Merge((Adapter(tokens=(5, 317, 7)),), versions=("0.20.0",)),
    "tokens-bf16-only": Merge((Adapter(tokens=(0, 319), targets=("q_proj",)),), _BF16, versions=("0.20.0",)),
    "tied": Merge(model=Model(tied=True)),
    "tied-tokens": Merge((Adapter(tokens=(5, 317, 7)),), Model(tied=True), versions=("0.20.0",)),
    "bias-0.6": Merge((Adapter(biases=".bias"),), Model(biased=True), versions=("0.6.2",)),
    "bias": Merge((Adapter(biases=".base_layer.bias"),), Model(biased=True), versions=_NEW),
}


def merge(case: Merge, folder: Path) -> str:
    """Run merge_and_unload once for each adapter; returns tensor hashes."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, adapters = case.write(folder)
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}[case.model.dtype]
    model = AutoModelForCausalLM.from_pretrained(base, torch_dtype=dtype)
    for adapter, path in zip(case.adapters, adapters, strict=True):
        if adapter.rows:
            model.resize_token_embeddings(adapter.rows)
        model = PeftModel.from_pretrained(model, str(path)).merge_and_unload()
    # A tied head is in the state twice; position frequencies are in it up to transformers 4.31.
    kept = {name: tensor.to(dtype) for name, tensor in model.state_dict().items() if name in shapes(case.model)}
    return digests(kept)


def main() -> None:
    import peft

    for name, case in CASES.items():
        if peft.__version__ in case.versions and name in (sys.argv[1:] or CASES):
            with tempfile.TemporaryDirectory() as folder:
                found = merge(case, Path(folder))
            keep("merge_lora", name, version=peft.__version__, result=found)
            print(name)


if __name__ == "__main__":
    main()
