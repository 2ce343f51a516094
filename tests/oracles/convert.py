"""Runs transformers' own script for Meta's checkpoints and stores what it made of ours.

Each version in a virtual environment of its own, with Python 3.11, then ``python -m tests.oracles.convert`` (with names
of cases: only those) in the repository's root:

    transformers==4.28.1 tokenizers==0.13.3 accelerate==0.20.3 protobuf<3.21 numpy<2 huggingface_hub<0.26
    transformers==4.31.0 tokenizers==0.13.3 accelerate==0.21.0 protobuf<3.21 numpy<2 huggingface_hub<0.26
    transformers==4.45.0 accelerate==1.0.1 numpy<2 tiktoken blobfile protobuf
    transformers==4.46.3 accelerate==1.1.1 numpy<2 tiktoken blobfile protobuf

and to each torch==2.13.0 (CPU), sentencepiece, safetensors. Later versions no longer ship the script.
"""

import base64
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from tests.backend.weights.make import Weights, write_meta
from tests.oracles.models import Model, digests, keep, read_folder, weights

DEMO_TOKENIZER = Path(__file__).parents[2] / "assets/demo/base/tokenizer.model"
OLD, NEW = ("4.28.1", "4.31.0"), ("4.45.0", "4.46.3")
_LLAMA3_KEYS = (("rope_theta", 500000.0), ("use_scaled_rope", False))
_SCALED = (("rope_theta", 500000.0), ("use_scaled_rope", True))
_RANKS = 300  # of the Llama 3 kind's vocabulary; 256 special tokens follow


@dataclass(frozen=True)
class Conversion:
    """One checkpoint for the script. ``size`` is the name that tells the old versions how many shards there are."""

    model: Model
    shards: int = 1
    size: str = "7B"
    generation: str = "1"
    versions: tuple[str, ...] = NEW
    shared_storage: bool = False
    tied: bool = False

    @property
    def dtype(self) -> str:
        """The number format that the versions write, whatever they read."""
        return "F16" if self.versions[0] in OLD else "BF16"

    def weights(self) -> Weights:
        """Return the weights under Hugging Face's names and in its head order."""
        found = weights(self.model, "meta")
        if self.tied:
            found["lm_head.weight"] = found["model.embed_tokens.weight"]
        return found

    def write(self, folder: Path) -> Path:
        """Write the checkpoint in Meta's layout, with a tokenizer."""
        write_meta(folder, self.model, self.weights(), shards=self.shards, shared_storage=self.shared_storage)
        if self.model.llama3:
            (folder / "tokenizer.model").write_bytes(tiktoken_like())
        else:
            shutil.copyfile(DEMO_TOKENIZER, folder / "tokenizer.model")
        return folder


def tiktoken_like() -> bytes:
    """Return a vocabulary as Llama 3's: every byte, then some pairs and triples of common letters."""
    tokens = [bytes([value]) for value in range(256)]
    pairs = [bytes(pair) for pair in zip(b" etaoinshrdlu", b"theanisrouldc", strict=True)]
    tokens += [*pairs, *(pair + b"e" for pair in pairs), *(b" " + pair for pair in pairs)]
    tokens = list(dict.fromkeys(tokens))
    tokens += [b"<%d>" % number for number in range(_RANKS - len(tokens))]
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


_FIRST = Model(vocab=32000)  # the old versions take the number of rows for granted
_SECOND = Model(vocab=2400, dtype="BF16", norm_eps=1e-05, layers=2)  # as the demo's tokenizer
_THIRD = Model(vocab=_RANKS + 256, dtype="BF16", norm_eps=1e-05, llama3=True, kv_heads=4, extra=_LLAMA3_KEYS)
_SEVENTY = Model(vocab=32000, dtype="BF16", norm_eps=1e-05, hidden=256, heads=64, kv_heads=8)

CASES = {
    "llama1-7b": Conversion(_FIRST, versions=OLD),
    "llama1-13b": Conversion(replace(_FIRST, layers=2), 2, "13B", versions=OLD, shared_storage=True),
    "llama1-30b": Conversion(_FIRST, 4, "30B", versions=OLD),
    "llama1-65b": Conversion(_FIRST, 8, "65B", versions=OLD),
    "llama2-13b-as-fp16": Conversion(replace(_FIRST, dtype="BF16", norm_eps=1e-05), 2, "13B", versions=OLD),
    "llama2-70b-as-fp16": Conversion(_SEVENTY, 8, "70B", versions=("4.31.0",)),
    "llama1-as-bf16": Conversion(replace(_SECOND, dtype="F16", norm_eps=1e-06), 2),
    "llama1-fp32-as-bf16": Conversion(replace(_SECOND, dtype="F32", norm_eps=1e-06)),
    "llama2-1": Conversion(_SECOND, 1, generation="2"),
    "llama2-2": Conversion(_SECOND, 2, generation="2", shared_storage=True),
    "llama2-gqa-1": Conversion(replace(_SECOND, kv_heads=2), 1, generation="2"),
    "llama2-gqa-4": Conversion(replace(_SECOND, kv_heads=4), 4, generation="2"),
    "llama2-gqa-8": Conversion(replace(_SECOND, kv_heads=8, heads=16), 8, generation="2"),
    "llama3-1": Conversion(_THIRD, 1, generation="3"),
    "llama3-4": Conversion(_THIRD, 4, generation="3"),
    "llama3.1-1": Conversion(replace(_THIRD, extra=_SCALED), 1, generation="3.1"),
    "llama3.1-2": Conversion(replace(_THIRD, extra=_SCALED), 2, generation="3.1"),
    "llama3.2-tied": Conversion(replace(_THIRD, extra=_SCALED), 1, generation="3.2", versions=("4.46.3",), tied=True),
}


def convert(case: Conversion, folder: Path, version: str) -> tuple[str, dict[str, object]]:
    """Run the script of the installed version; returns tensor hashes and config.json."""
    out, inside = folder / "out", folder / "in" / (case.size if version in OLD else "")
    case.write(inside)
    options = ["--input_dir", folder / "in", "--output_dir", out, "--model_size", case.size]
    if version in OLD:
        shutil.copyfile(inside / "tokenizer.model", folder / "in" / "tokenizer.model")
    else:
        options[-2:] = ["--num_shards", str(case.shards), "--llama_version", case.generation]
    script = "transformers.models.llama.convert_llama_weights_to_hf"
    subprocess.run([sys.executable, "-m", script, *map(str, options)], check=True, capture_output=True)
    settings = json.loads((out / "config.json").read_text())
    del settings["transformers_version"]
    return digests(read_folder(out)), settings


def main() -> None:
    import transformers

    for name, case in CASES.items():
        if transformers.__version__ in case.versions and name in (sys.argv[1:] or CASES):
            with tempfile.TemporaryDirectory() as folder:
                tensors, config = convert(case, Path(folder), transformers.__version__)
            keep("convert", name, version=transformers.__version__, result=tensors)
            if transformers.__version__ in NEW:  # the old ones stated what differed from their defaults
                keep("config", name, version=transformers.__version__, result=config)
            print(name)


if __name__ == "__main__":
    main()
