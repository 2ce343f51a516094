"""Runs FastChat's apply_delta and stores what it made of our bases and deltas.

Each version in a virtual environment of its own, with Python 3.11, then ``python -m tests.oracles.apply_delta`` in the
repository's root; fschat with ``--no-deps``:

    fschat==0.1.10 transformers==4.28.1 tokenizers==0.13.3 accelerate==0.20.3 numpy<2 setuptools<80   (Vicuna v0)
    fschat==0.2.36 transformers==4.31.0 tokenizers==0.13.3 accelerate==0.21.0 numpy<2 psutil requests (v1.1)

and to each torch==2.13.0 (CPU), sentencepiece, safetensors, protobuf<3.21, huggingface_hub<0.26.
"""

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from tests.backend.weights.make import write_hf
from tests.oracles.convert import DEMO_TOKENIZER
from tests.oracles.models import Model, digests, keep, read_folder, weights

V0, V11 = "0.1.10", "0.2.36"


@dataclass(frozen=True)
class Delta:
    """A base and a delta as files. ``low_memory`` is FastChat's mode that adds in the number formats of the files;
    without it both are rounded to fp16 first."""

    version: str
    base: str = "F16"
    delta: str = "F16"
    more_rows: int = 0
    kv_heads: int = 8
    low_memory: bool = False

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both folders; returns base and delta."""
        base = Model(vocab=2400, kv_heads=self.kv_heads, dtype=self.base)  # rows as the demo's tokenizer has pieces
        delta = replace(base, vocab=base.vocab + self.more_rows, dtype=self.delta)
        write_hf(folder / "base", base, weights(base, "base"), kind="bin", shards=2)
        write_hf(folder / "delta", delta, weights(delta, "delta", power=-7, norm=0.0), kind="bin", shards=3)
        for name in ("base", "delta"):
            shutil.copyfile(DEMO_TOKENIZER, folder / name / "tokenizer.model")
            (folder / name / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
        return folder / "base", folder / "delta"


CASES = {
    "v0": Delta(V0, more_rows=1),
    "v0-base-bf16": Delta(V0, base="BF16", more_rows=1),
    "v1.1": Delta(V11),
    "v1.1-gqa": Delta(V11, kv_heads=2),
    "v1.1-base-bf16": Delta(V11, base="BF16"),
    "v1.1-base-fp32": Delta(V11, base="F32"),
    "v1.1-delta-fp32": Delta(V11, delta="F32"),
    "v1.1-low-memory": Delta(V11, low_memory=True),
    "v1.1-low-memory-base-bf16": Delta(V11, base="BF16", low_memory=True),
    "v1.1-low-memory-delta-bf16": Delta(V11, delta="BF16", low_memory=True),
    "v1.1-low-memory-delta-fp32": Delta(V11, delta="F32", low_memory=True),
    "v1.1-low-memory-base-fp32": Delta(V11, base="F32", low_memory=True),
}


def main() -> None:
    version = importlib.metadata.version("fschat")
    for name, case in CASES.items():
        if case.version != version:
            continue
        with tempfile.TemporaryDirectory() as folder:
            base, delta = case.write(Path(folder))
            target = Path(folder) / "target"
            options = ["--base-model-path", base, "--target-model-path", target, "--delta-path", delta]
            more = ["--low-cpu-mem"] if case.low_memory else []
            command = [sys.executable, "-m", "fastchat.model.apply_delta", *map(str, options), *more]
            subprocess.run(command, check=True, capture_output=True)
            found = digests(read_folder(target))
        keep("apply_delta", name, version=version, result=found)
        print(name)


if __name__ == "__main__":
    main()
