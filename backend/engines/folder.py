"""What an engine must know of a model folder before it loads anything: its tensors, context, end tokens, stop strings.

Everything in the folder is input, not configuration: the weights reader checks names, shapes and files, and only known
keys of the small files are taken. Knows nothing about torch or devices.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.engines import EngineKind
from backend.engines.adapters import naming, open_loras
from backend.engines.base import EngineOptions
from backend.errors import UsageError, WeightsError
from backend.library import RECORD
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import read_json
from backend.weights.gguf_adapter import check_places
from backend.weights.gguf_kinds import check_convertible
from backend.weights.gguf_ready import ReadyGguf, holds_ready, open_ready, stated_context
from backend.weights.huggingface import open_huggingface

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_MAX_STOPS = 16
_MAX_STOP_LENGTH = 200


@dataclass(frozen=True)
class ModelFolder:
    """A loadable model. ``context`` is what it was made for, in tokens; ``eos`` are the ids that end a reply."""

    checkpoint: Checkpoint
    context: int
    eos: tuple[int, ...]
    stops: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The folder."""
        return self.checkpoint.folder


def open_folder(folder: Path) -> ModelFolder:
    """Open a model folder; reads headers and small files only.

    Raises:
        WeightsError: it is not a model that can be loaded.
    """
    if not folder.is_dir():
        raise WeightsError("engine.no_folder", folder=str(folder))
    if holds_ready(folder):
        raise WeightsError("ggufready.engine", folder=folder.name)
    checkpoint = open_huggingface(folder)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise WeightsError("engine.no_tokenizer", folder=str(folder))
    record = small_json(folder / RECORD)
    shape = checkpoint.shape
    stated = record.get("context")
    context = stated if isinstance(stated, int) and 0 < stated <= shape.max_positions else shape.max_positions
    eos = _ids(small_json(folder / "generation_config.json").get("eos_token_id"), below=shape.vocab) or shape.eos
    return ModelFolder(checkpoint, context, eos, _stops(record.get("stop")))


def wanted_context(folder: ModelFolder, asked: int) -> int:
    """Return the context to use: what was asked for, or what the model was made for.

    Raises:
        UsageError: more was asked for than the model can do.
    """
    if asked > folder.checkpoint.shape.max_positions:
        raise UsageError("engine.context_too_long", asked=asked, most=folder.checkpoint.shape.max_positions)
    return asked or folder.context


def check_ready(folder: Path, options: EngineOptions) -> ReadyGguf:
    """Open a folder's ready-made GGUF for these options.

    Raises:
        UsageError: they ask for what such a file cannot do.
        WeightsError: it is not one that can be loaded.
    """
    if options.bits != 16:
        raise UsageError("ggufready.bits", bits=options.bits, folder=folder.name)
    if options.loras:
        raise UsageError("ggufready.loras", folder=folder.name)
    ready = open_ready(folder)
    most = stated_context(ready.values)
    if options.context > most:
        raise UsageError("engine.context_too_long", asked=options.context, most=most)
    return ready


def weights_bytes(folder: Path, options: EngineOptions, kind: EngineKind) -> int:
    """Return the bytes of the weights that an engine would read of a folder, 0 where it reads none.

    Raises:
        UsageError: more context than the model can do.
        WeightsError: it is not a model that can be loaded, or an adapter cannot be attached to it.
    """
    if kind.is_remote:
        return 0
    if not kind.computes:
        if not folder.is_dir():
            raise WeightsError("engine.no_folder", folder=str(folder))
        return 0
    if kind.opens_gguf and holds_ready(folder):
        return check_ready(folder, options).bytes
    opened = open_folder(folder)
    wanted_context(opened, options.context)
    _check_attached(opened.checkpoint, options, kind)
    return opened.checkpoint.nbytes


def _check_attached(checkpoint: Checkpoint, options: EngineOptions, kind: EngineKind) -> None:
    """Make sure that an engine can compute with these adapters beside the model."""
    attached = open_loras(checkpoint, options.loras)
    if kind.opens_gguf and attached:
        form = check_convertible(checkpoint)
        for lora in attached:
            with naming(lora.name):
                check_places(form, lora.places)
    uneven = next((lora.name for lora in attached if not lora.is_even), None)
    if uneven is not None and not kind.mixes:
        raise UsageError("attach.uneven", name=uneven[:120], engine=options.engine)


def small_json(path: Path) -> Mapping[str, Any]:
    """Return a small JSON object of the folder; empty when it is absent or unusable: nothing depends on it alone."""
    with contextlib.suppress(WeightsError, OSError):
        return read_json(path, limit=1_000_000)
    return {}


def _ids(value: Any, *, below: int) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(token for token in values[:_MAX_STOPS] if type(token) is int and 0 <= token < below)


def _stops(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else []
    return tuple(stop for stop in values[:_MAX_STOPS] if isinstance(stop, str) and 0 < len(stop) <= _MAX_STOP_LENGTH)
