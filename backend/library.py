"""The shelf of finished model folders. Knows nothing about how a folder was made or how it is loaded.

A model folder is a complete Hugging Face folder plus ``cria.json`` (where it came from, sha256 of every file, what the
self-test saw). A folder without ``cria.json`` that was dropped in by hand is listed too, as unverified.
"""

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import MachineError, UsageError
from backend.recipes import META

RECORD = "cria.json"
_MAX_JSON = 16 << 20
_WEIGHTS = (".safetensors", ".bin", ".pth")


@dataclass(frozen=True)
class ModelInfo:
    """One model on the shelf. ``verified`` is None when no self-test ran; ``template`` names the prompt template."""

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


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty when the file is missing, too large, or not an object."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= _MAX_JSON:
            data = json.loads(path.read_text(encoding="utf-8"))
            return data if isinstance(data, dict) else {}
    return {}


def _problem(folder: Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    if (folder / "consolidated.00.pth").is_file():
        return "library.meta_layout" if record.get("layout") == META else "library.raw"
    if (folder / "adapter_config.json").is_file():
        return "library.adapter"
    if not config:
        return "library.no_config"
    if not any(path.suffix in _WEIGHTS for path in folder.iterdir()):
        return "library.no_weights"
    return None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _positions(config: Mapping[str, Any]) -> int | None:
    """Return the tokens of context; where positions are stretched, the other number is what they were before."""
    return _number(config.get("max_sequence_length")) or _number(config.get("max_position_embeddings"))


def read_model(folder: Path) -> ModelInfo:
    """Describe one model folder from its small files; never raises for what is in them."""
    record, config = _read_json(folder / RECORD), _read_json(folder / "config.json")
    files = [path for path in folder.iterdir() if path.is_file()]
    test = record.get("self_test")
    questions = record.get("questions")
    return ModelInfo(
        name=folder.name,
        folder=folder,
        bytes=sum(path.stat().st_size for path in files if path.suffix in _WEIGHTS),
        parameters=_number(record.get("parameters")),
        dtype=_text(record.get("dtype")) or _text(config.get("torch_dtype")) or _text(config.get("dtype")),
        context=_number(record.get("context")) or _positions(config),
        template=_text(record.get("template")),
        recipe=_text(record.get("recipe")),
        made=_text(record.get("made")),
        stops=_truth(test.get("stops")) if isinstance(test, dict) else None,
        problem=_problem(folder, config, record),
        questions=tuple((str(pair[0]), str(pair[1])) for pair in questions if isinstance(pair, list) and len(pair) == 2)
        if isinstance(questions, list)
        else (),
    )


def read_models(models_dir: Path) -> tuple[ModelInfo, ...]:
    """Return every model on the shelf, newest first; hidden folders are unfinished and left out."""
    found = []
    if models_dir.is_dir():
        for folder in models_dir.iterdir():
            with contextlib.suppress(OSError):  # a folder that vanishes while being read is simply not there
                if folder.is_dir() and not folder.name.startswith("."):
                    found.append((folder.stat().st_mtime, read_model(folder)))
    return tuple(model for _, model in sorted(found, key=lambda pair: (-pair[0], pair[1].name)))


def _read_elsewhere(path: str) -> ModelInfo | None:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a path that cannot be is simply not there
        folder = Path(path).expanduser().resolve()
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
        raise UsageError("library.unknown", name=name[:200], known=", ".join(known) or "-")
    return model


def delete_model(folder: Path, *, in_use: bool) -> None:
    """Delete a model folder for good.

    Raises:
        UsageError: it is loaded.
        MachineError: the disk refused.
    """
    if in_use:
        raise UsageError("library.in_use", name=folder.name)
    try:
        # Renamed first: whatever interrupts the deletion, nothing half-deleted is left on the shelf.
        doomed = folder.rename(folder.with_name(f".deleted-{folder.name}"))
        shutil.rmtree(doomed)
    except OSError as problem:
        what = problem.strerror or str(problem)
        raise MachineError("library.cannot_delete", name=folder.name, what=what) from problem
