"""Compares our tokenizer.json for Llama 3.1 with the published one, byte for byte. Too large to keep here:

pip download --no-deps llama-models==0.3.0 && unzip llama_models-0.3.0-*.whl llama_models/llama3/tokenizer.model
python -m tests.oracles.llama3_tokenizer llama_models/llama3/tokenizer.model
"""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from backend.weights.templates import find_template
from backend.weights.tokenizer import find_vocabulary, write_tokenizer

PUBLISHED = (
    "79e3e522635f3171300913bb421464a87de6222182a0570b9b2ccba2a964b2b4"  # meta-llama/Llama-3.1-8B, tokenizer.json
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        source.mkdir()
        out.mkdir()
        shutil.copyfile(sys.argv[1], source / "tokenizer.model")
        write_tokenizer(find_vocabulary([source], 128256), out, template=find_template("plain"), context=131072)
        found = hashlib.sha256((out / "tokenizer.json").read_bytes()).hexdigest()
    sys.exit(0 if found == PUBLISHED else f"tokenizer.json is {found}, published is {PUBLISHED}")


if __name__ == "__main__":
    main()
