"""The GGUF files of a model folder, in a folder ``gguf`` inside it. They depend on weights, settings and tokenizer.

Knows nothing about llama.cpp.
"""

from collections.abc import Callable
from pathlib import Path

from backend.engines.folder import ModelFolder
from backend.engines.made import alone, clear, fingerprint, sweep
from backend.errors import EngineError
from backend.events import Progress
from backend.library import CONVERTED
from backend.storage import PART
from backend.weights.as_is import AsIs
from backend.weights.disk import inside
from backend.weights.gguf_file import write_gguf
from backend.weights.gguf_vocabulary import tokenizer_settings
from backend.weights.partial import writing

_VERSION = 2  # of what is written; a higher one makes every file anew
_PATIENCE_S = 3600.0  # another process may be at the same work
_SMALL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
          "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")  # fmt: skip


def gguf_path(folder: ModelFolder, kind: str) -> Path:
    """Return where the file of that kind is, or will be."""
    key = fingerprint(folder.checkpoint, _VERSION, folder.eos, small=_SMALL)
    return folder.path / CONVERTED / f"{kind}-{key}.gguf"


def make_gguf(folder: ModelFolder, kind: str, report: Callable[[Progress], None]) -> Path:
    """Return the file of that kind, making it first unless it is there. ``report`` hears of source bytes read.

    Raises:
        WeightsError: the model cannot be written as GGUF, its files are damaged, or the place for it leads elsewhere.
        MachineError: no room, or the folder cannot be written.
        EngineError: another process has been at it for an hour.
    """
    path = gguf_path(folder, kind)
    place, key = path.parent, path.stem.rpartition("-")[2]
    inside(folder.path, CONVERTED)
    if path.is_file():
        sweep(place, key)
        return path
    with writing(place):
        place.mkdir(exist_ok=True)
        with alone(place, patience_s=_PATIENCE_S) as mine:
            if not mine:
                raise EngineError("gguf.busy", folder=folder.path.name)
            if not path.is_file():  # somebody else may have made it meanwhile
                clear(place, key)
                _make(folder, kind, path, report)
    return path


def _make(folder: ModelFolder, kind: str, path: Path, report: Callable[[Progress], None]) -> None:
    part = path.with_name(path.name + PART)
    shape = folder.checkpoint.shape
    tokenizer = tokenizer_settings(folder.path, shape.vocab, folder.eos, own=isinstance(shape, AsIs))
    try:
        for progress in write_gguf(folder.checkpoint, path, kind=kind, tokenizer=tokenizer, part=part):
            report(progress)
    finally:
        part.unlink(missing_ok=True)
