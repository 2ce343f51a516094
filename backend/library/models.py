"""The shelf of model folders: what each is, from its small files. Knows nothing about how a folder was made, whether it
is loaded, or what is wrong inside its weights.

A model folder is a complete Hugging Face folder plus ``cria.json`` (where it came from, sha256 of every file, what the
self-test saw). A folder without ``cria.json`` that was dropped in by hand is listed too, as unverified.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2s
from os import fsencode
from pathlib import Path
from typing import Any

from backend.errors import UsageError, WeightsError
from backend.library.listing import Listing, list_folder
from backend.library.record import (
    RECORD,
    Checked,
    Ingredient,
    checked,
    ingredients,
    number,
    rows,
    small_json,
    sums,
    text,
    truth,
)
from backend.recipes import META
from backend.storage import disk_bytes
from backend.weights.gguf_ready import ENDING, architecture, files_of, glance, is_ready, quantisation, stated_context

WEIGHTS = (".safetensors", ".bin", ".pth")
CONFIG, ADAPTER, SHARD, BEFORE = "config.json", "adapter_config.json", "consolidated.00.pth", ".cria-before"
CONVERTED, QUANTISED = "gguf", "quantised"  # folders in a model's folder, of what engines made of its weights


@dataclass(frozen=True)
class ModelInfo:
    """One model on the shelf. ``stops`` is None when no self-test ran; ``template`` names the prompt template."""

    name: str
    folder: Path
    bytes: int
    parameters: int | None = None
    dtype: str | None = None
    context: int | None = None
    template: str | None = None
    recipe: str | None = None
    made: str | None = None  # ISO date-time
    stops: bool | None = None  # what the self-test saw: it ended its answer by itself
    problem: str | None = None  # catalogue key of why the folder cannot be loaded
    questions: tuple[tuple[str, str], ...] = ()  # (language, suggested question)
    kind: str | None = None  # config.json's model_type
    origins: tuple[Ingredient, ...] = ()
    adopted: str | None = None  # ISO date-time: since when a folder that was put here by hand has a record
    checked: Checked | None = None
    sums: int = 0  # files whose sha256 is on record
    is_link: bool = False  # a link to a folder elsewhere
    mended: bool = False  # files as they were before a repair are kept
    ready: tuple[str, ...] = ()  # the files of a ready-made GGUF
    converted: int = 0  # bytes of the files that engines made from the weights and keep in CONVERTED and QUANTISED

    @property
    def id(self) -> str:
        """A name that is safe anywhere, also where the folder's own is no text."""
        return blake2s(fsencode(self.name), digest_size=8).hexdigest()

    @property
    def is_text(self) -> bool:
        """Tell whether the folder's name can be shown and typed."""
        return self.name.isprintable()


def _problem(listing: Listing, config: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    if listing.crowded:
        return "library.crowded"
    if listing.has(SHARD):
        made_here = record.get("layout") == META and not record.get("adopted")
        return "library.meta_layout" if made_here else "library.raw"
    if listing.has(ADAPTER):
        return "library.adapter"
    if is_ready(listing.files):
        return None if _ready(listing) else "ggufready.shelf"
    if not config:
        return "library.bad_config" if listing.has(CONFIG) else "library.no_config"
    if not any(name.endswith(WEIGHTS) for name in listing.files):
        return "library.no_weights"
    return None


def _ready(listing: Listing) -> tuple[str, ...]:
    """Return the files of the ready-made GGUF that a folder holds; none where it is no such folder."""
    if not is_ready(listing.files) or listing.has(ADAPTER):
        return ()
    try:
        return files_of(listing.files)
    except WeightsError:
        return ()


def _positions(config: Mapping[str, Any]) -> int | None:
    """Return the tokens of context; where positions are stretched, the other number is what they were before."""
    return number(config.get("max_sequence_length")) or number(config.get("max_position_embeddings"))


def read_model(folder: Path) -> ModelInfo:
    """Describe one model folder from its small files; never raises for what is in them.

    Raises:
        OSError: the folder is gone or may not be read.
    """
    return describe(folder, list_folder(folder))


def describe(folder: Path, listing: Listing) -> ModelInfo:
    """Describe a folder that was looked into already."""
    record = small_json(folder / RECORD) if listing.has(RECORD) else {}
    config = small_json(folder / CONFIG) if listing.has(CONFIG) else {}
    test = record.get("self_test")
    questions = [pair for pair in rows(record.get("questions")) if isinstance(pair, list) and len(pair) == 2]
    ready = _ready(listing)
    said = glance(folder, ready) if ready else {}
    return ModelInfo(
        name=folder.name,
        folder=folder,
        bytes=sum(listing.files[name][0] for name in ready) or listing.size(WEIGHTS),
        parameters=number(record.get("parameters")) or None,
        dtype=text(record.get("dtype"))
        or (quantisation(said) or None if ready else text(config.get("torch_dtype")) or text(config.get("dtype"))),
        context=number(record.get("context")) or (stated_context(said) if said else _positions(config)),
        template=text(record.get("template")),
        recipe=text(record.get("recipe")),
        made=text(record.get("made")),
        stops=truth(test.get("stops")) if isinstance(test, dict) else None,
        problem=_problem(listing, config, record),
        questions=tuple((str(pair[0]), str(pair[1])) for pair in questions),
        kind=(architecture(said) or None) if ready else text(config.get("model_type")),
        ready=ready,
        origins=ingredients(record),
        adopted=text(record.get("adopted")),
        checked=checked(record),
        sums=len(sums(record)),
        is_link=folder.is_symlink(),
        mended=(folder / BEFORE).is_dir(),
        converted=disk_bytes(folder / CONVERTED) + disk_bytes(folder / QUANTISED),
    )


def shelf_folders(models_dir: Path) -> list[Path]:
    """Return every folder on the shelf, newest first; hidden ones are unfinished and left out."""
    found = []
    with contextlib.suppress(OSError):
        for folder in models_dir.iterdir():
            with contextlib.suppress(OSError):  # a folder that vanishes while being read is simply not there
                if not folder.name.startswith(".") and folder.is_dir():
                    found.append((folder.stat().st_mtime, folder))
    return [folder for _, folder in sorted(found, key=lambda pair: (-pair[0], pair[1].name))]


def read_models(models_dir: Path) -> tuple[ModelInfo, ...]:
    """Return every model on the shelf, newest first."""
    found = (read_or_blame(folder) for folder in shelf_folders(models_dir))
    return tuple(model for model in found if model is not None)


def read_or_blame(folder: Path) -> ModelInfo | None:
    """Describe a folder, or say that it may not be read; None for one that is gone."""
    try:
        return read_model(folder)
    except PermissionError:
        return ModelInfo(folder.name, folder, 0, problem="library.unreadable")
    except OSError:
        return None


def _read_elsewhere(path: str) -> ModelInfo | None:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a path that cannot be is simply not there
        folder = Path(path).expanduser().resolve()
        if folder.is_file() and folder.name.endswith(ENDING):
            found = read_model(folder.parent)  # alone there, the file is the folder's model
            return found if folder.name in found.ready else replace(found, problem="ggufready.shelf")
        return read_model(folder) if folder.is_dir() else None
    return None


def find_model(models_dir: Path, name: str) -> Path:
    """Return the folder of a model that can be loaded, by name or by a path anywhere on this machine.

    Raises:
        UsageError: there is none; the message lists what there is, or says what is wrong with the folder.
    """
    model = _find(models_dir, name)
    if model.problem:
        raise UsageError(model.problem, name=model.name, folder=str(model.folder))
    return model.folder


def find_folder(models_dir: Path, name: str) -> Path:
    """Return the folder of a model by name or path, whether it can be loaded or not.

    Raises:
        UsageError: there is none; the message lists what there is.
    """
    return _find(models_dir, name).folder


def _find(models_dir: Path, name: str) -> ModelInfo:
    known = {model.name: model for model in read_models(models_dir)}
    model = known.get(name)
    if model is None and ("/" in name or "\\" in name):
        model = _read_elsewhere(name)
    if model is None:
        usable = ", ".join(one.name for one in known.values() if not one.problem)
        raise UsageError("library.unknown", name=name[:200], known=usable or "-")
    return model
