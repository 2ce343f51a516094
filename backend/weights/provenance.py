"""``cria.json``: where a model folder came from, the sha256 of its every file, and how to talk to it. Knows nothing
about weights, templates or engines; it keeps what it is told.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.storage import PART, replace_file
from backend.text import Message
from backend.weights.disk import read_json
from backend.weights.partial import JOURNAL, hash_file, writing

FILE = "cria.json"
FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """One ingredient: its role (base, delta, lora), where it was taken from, and its files as (name, bytes).

    Of what was fetched, ``revision`` is its commit, and ``sums`` has what each file was proven by: ``sha256:...``.
    """

    role: str
    source: str
    scale: float | None = None
    files: tuple[tuple[str, int], ...] = ()
    revision: str = ""
    sums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SelfTest:
    """What happened when the finished folder was tried: it loaded and its numbers were finite, it stopped by itself."""

    verified: bool
    stops: bool | None = None
    question: str = ""
    answer: str = ""
    problem: Message | None = None


@dataclass(frozen=True)
class Provenance:
    """The contents of cria.json. ``files`` maps a file's name to its sha256; ``made`` is an ISO date-time in UTC."""

    recipe: str | None
    origins: tuple[Origin, ...]
    template: str
    system: str
    stops: tuple[str, ...]
    context: int
    parameters: int
    dtype: str
    questions: tuple[tuple[str, str], ...] = ()  # (language, a question to suggest)
    notes: tuple[Message, ...] = ()
    self_test: SelfTest | None = None
    made: str = ""
    bytes: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    layout: str = "huggingface"  # or "meta", for a folder of consolidated.*.pth


def write_cria_json(folder: Path, provenance: Provenance, *, sha256: Mapping[str, str] | None = None) -> Provenance:
    """Write cria.json as the last file of a folder; returns it with date, size and hashes filled in.

    ``sha256`` are hashes known from writing; other files are hashed here. A second call, to add what the self-test saw,
    keeps date and hashes that are there.

    Raises:
        MachineError: the folder cannot be written.
    """
    known = {**provenance.files, **(sha256 or {})}
    with writing(folder):
        # A .part is what a full disk or a kill left of a file that is written again, this one too.
        here = [path for path in folder.iterdir() if path.is_file() and path.suffix != PART]
        names = sorted(path.name for path in here if path.name not in (FILE, JOURNAL))
        files = {name: known.get(name) or hash_file(folder / name) for name in names}
        made = provenance.made or datetime.now(UTC).isoformat(timespec="seconds")
        size = sum((folder / name).stat().st_size for name in names)
        complete = replace(provenance, files=files, made=made, bytes=size)
        replace_file(folder / FILE, (json.dumps(to_table(complete), indent=2, ensure_ascii=False) + "\n").encode())
    return complete


def to_table(provenance: Provenance) -> dict[str, Any]:
    """Return the contents of cria.json, ready for JSON."""
    table = {"format": FORMAT, **asdict(provenance), "notes": [note.to_json() for note in provenance.notes]}
    table["stop"] = table.pop("stops")  # the name that the OpenAI protocol has for it
    return table


def read_cria_json(folder: Path) -> Provenance | None:
    """Return what a folder's cria.json says, or None where there is none.

    Raises:
        WeightsError: the file is there and damaged, or of a later version of Cria.
    """
    if not (folder / FILE).is_file():
        return None
    data = read_json(folder / FILE)
    if data.get("format") != FORMAT:
        raise WeightsError("weights.cria_json_bad", folder=folder.name, what=f"format {data.get('format')}"[:60])
    try:
        return _from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise WeightsError("weights.cria_json_bad", folder=folder.name, what=str(problem)[:60]) from problem


def _from_json(data: Mapping[str, Any]) -> Provenance:
    origins = tuple(
        Origin(
            role=str(origin["role"]),
            source=str(origin["source"]),
            scale=None if origin["scale"] is None else float(origin["scale"]),
            files=tuple((str(name), int(size)) for name, size in origin["files"]),
            revision=str(origin.get("revision", "")),  # earlier folders have neither
            sums={str(name): str(value) for name, value in origin.get("sums", {}).items()},
        )
        for origin in data["origins"]
    )
    return Provenance(
        recipe=None if data["recipe"] is None else str(data["recipe"]),
        origins=origins,
        template=str(data["template"]),
        system=str(data["system"]),
        stops=tuple(map(str, data["stop"])),
        context=int(data["context"]),
        parameters=int(data["parameters"]),
        dtype=str(data["dtype"]),
        questions=tuple((str(language), str(text)) for language, text in data["questions"]),
        notes=tuple(Message.from_json(note) for note in data["notes"]),
        self_test=_self_test(data["self_test"]),
        made=str(data["made"]),
        bytes=int(data["bytes"]),
        files={str(name): str(sha256) for name, sha256 in data["files"].items()},
        layout=str(data.get("layout", "huggingface")),  # folders of the first version do not say
    )


def _self_test(data: Mapping[str, Any] | None) -> SelfTest | None:
    if data is None:
        return None
    problem = data.get("problem")
    return SelfTest(
        verified=bool(data["verified"]),
        stops=None if data["stops"] is None else bool(data["stops"]),
        question=str(data["question"]),
        answer=str(data["answer"]),
        problem=None if problem is None else Message.from_json(problem),
    )
