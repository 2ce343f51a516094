"""Model folders in every state that people leave them in, small; looks and repairs without a process of their own."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from backend.errors import error_from_json
from backend.library.asking import Take
from backend.library.child import answers, look
from backend.text import Message
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf, write_lora
from tests.backend.weights.test_early_uploads import TINY, write_decapoda

__all__ = ["TINY", "bare", "early", "pointer", "write_lora"]


def early(folder: Path) -> Path:
    """An upload of March 2023, with everything wrong that those had."""
    return write_decapoda(folder, weights(TINY))


def bare(folder: Path, tiny: Tiny = TINY, *, norm: float = 1.0, scale: float = 0.1, **config: object) -> Path:
    """A conversion with a tokenizer.model and nothing else."""
    write_hf(folder, tiny, weights(tiny, norm=norm, scale=scale), **config)
    (folder / "tokenizer.model").write_bytes(tokenizer_model())
    return folder


def pointer(folder: Path) -> Path:
    """A clone without git-lfs."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(TINY.config()))
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9976570304\n"
    (folder / "model.safetensors").write_text(text)
    return folder


def examine_here(folders: Sequence[Path], take: Take) -> None:
    """Look into folders as the child does, in this process."""
    for folder in folders:
        take(folder, look(folder))


def ask_here(do: str, folder: Path, *, template: str | None = None) -> tuple[Message, ...]:
    """Repair a folder as the child does, in this process."""
    told = next(answers({"do": do, "folders": [os.fspath(folder)], "template": template}))
    if "error" in told:
        raise error_from_json(told["error"])
    return tuple(map(Message.from_json, told["notes"]))


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
