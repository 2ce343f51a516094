"""``cria.json`` as the shelf reads and changes it: a few fields, taken one by one with a look, the rest left as it is.

The file is input, not configuration: anybody may have written it. Knows nothing about weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import MachineError, WeightsError
from backend.storage import replace_file
from backend.weights.disk import read_json

RECORD = "cria.json"
SMALL_JSON = 2_000_000  # bytes; a config.json has a few kB, cria.json with 200 hashes and 200 questions 60 kB
_MOST = 1000  # entries that are taken of any list


@dataclass(frozen=True)
class Checked:
    """The last time all files were read again: when (ISO, UTC), how many, which differ or are gone, and how many had
    no sum on record before.
    """

    when: str
    files: int
    bad: tuple[str, ...] = ()
    noted: int = 0


@dataclass(frozen=True)
class Ingredient:
    """Where a part of a model came from: ``role`` is base, delta or lora."""

    role: str
    source: str
    scale: float | None = None


def small_json(path: Path) -> dict[str, Any]:
    """Return the object in a small JSON file; empty when that is missing, too large, damaged, or no object."""
    try:
        return read_json(path, SMALL_JSON)
    except WeightsError:
        return {}


def text(value: Any) -> str | None:
    """Return a text that is not empty, else None."""
    return value[:500] if isinstance(value, str) and value else None


def number(value: Any) -> int | None:
    """Return a whole number, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def truth(value: Any) -> bool | None:
    """Return true or false, else None."""
    return value if isinstance(value, bool) else None


def rows(value: Any) -> list[Any]:
    """Return a list, else an empty one."""
    return value[:_MOST] if isinstance(value, list) else []


def checked(record: Mapping[str, Any]) -> Checked | None:
    """Return what a record says about the last check of its files."""
    found = record.get("checked")
    if not isinstance(found, dict) or text(found.get("when")) is None:
        return None
    bad = tuple(name for name in map(text, rows(found.get("bad"))) if name)
    return Checked(str(found["when"]), number(found.get("files")) or 0, bad, number(found.get("noted")) or 0)


def ingredients(record: Mapping[str, Any]) -> tuple[Ingredient, ...]:
    """Return where a record says that its model came from."""
    found = []
    for one in rows(record.get("origins")):
        if isinstance(one, dict) and text(one.get("source")):
            scale = one.get("scale")
            usable = float(scale) if isinstance(scale, int | float) and not isinstance(scale, bool) else None
            found.append(Ingredient(text(one.get("role")) or "base", str(text(one["source"])), usable))
    return tuple(found)


def sums(record: Mapping[str, Any]) -> dict[str, str]:
    """Return file name -> sha256 as a record has them; what cannot be a plain file's name is left out."""
    found = record.get("files")
    pairs = list(found.items())[:_MOST] if isinstance(found, dict) else []
    return {name: value for name, value in pairs if isinstance(value, str) and Path(name).name == name}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a folder's record so that a crash leaves the old one or the new one.

    Raises:
        MachineError: the folder cannot be written.
    """
    try:
        replace_file(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as problem:
        what = problem.strerror or str(problem)
        raise MachineError("weights.cannot_write", folder=str(folder), what=what) from problem
