"""Mending a model folder: its small files written anew by what finishes a set-up, and the way back.

The weights are never touched. What is replaced is kept beside (``.cria-before``), with a list of what is new, before
the first file changes: whatever interrupts a repair, ``undo`` brings back every byte. Runs in a child, like a look.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.errors import UsageError, WeightsError
from backend.library.adopt import now, record_of
from backend.library.models import BEFORE
from backend.library.record import RECORD, checked, rows, small_json, write_record
from backend.library.template import recorded_template
from backend.storage import replace_file, sync_folder
from backend.text import Message
from backend.weights.disk import inside, label, plain_name
from backend.weights.finish import Finished, finish_folder
from backend.weights.huggingface import open_huggingface
from backend.weights.partial import writing
from backend.weights.templates import NAMES, Template

_STAGED, _LIST = ".cria-repair", "list.json"
_SMALL = (".json", ".jinja", ".model", ".txt")
_MOST_REPAIRS = 20


def repair(folder: Path, *, template: str | None = None) -> tuple[Message, ...]:
    """Write a folder's configuration, tokenizer files and template anew; return what was found and put right.

    Raises:
        WeightsError: the weights cannot be opened, or no tokenizer fits them.
        UsageError: an unknown template, or none was given where nothing tells which it is.
        MachineError: the folder cannot be written.
    """
    checkpoint, staged = open_huggingface(folder), folder / _STAGED
    recorded = None if template else recorded_template(folder)
    with writing(folder):
        if staged.exists():
            shutil.rmtree(staged)
        try:
            finished = finish_folder(checkpoint, staged, sources=[folder], template=template or recorded)
            if not (template or recorded):
                _check_known(finished.template, folder)
            finished = replace(finished, notes=tuple(_why(note, folder, recorded) for note in finished.notes))
            changed = [path.name for path in sorted(staged.iterdir()) if not _same(path, folder / path.name)]
            record = record_of(folder)
            _keep(folder, [*changed, RECORD])
            for name in changed:
                replace_file(folder / name, (staged / name).read_bytes())
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    write_record(folder, _noted(record, folder, finished, changed))
    return finished.notes


def _check_known(found: Template, folder: Path) -> None:
    """Refuse to write the template that only strings texts together where nobody chose it: a chat would babble."""
    if found.name.startswith("plain"):
        raise UsageError("models.which_template", name=folder.name, known=", ".join(NAMES))


def _why(note: Message, folder: Path, recorded: str | None) -> Message:
    """Return a note as it is true of a repair, which no recipe belongs to."""
    if note.key != "weights.found.template_given":
        return note
    if recorded is None:
        return Message("models.found.template_chosen", note.params)
    return Message("finish.found.template_recorded", {"folder": label(folder), "template": recorded})


def _same(new: Path, old: Path) -> bool:
    return old.is_file() and old.stat().st_size == new.stat().st_size and old.read_bytes() == new.read_bytes()


def _noted(record: dict[str, Any], folder: Path, finished: Finished, changed: list[str]) -> dict[str, Any]:
    """Return a record after a repair: the template, the sums of what was written, what was done and when."""
    template = finished.template
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in changed}
    known, last = record.get("files"), checked(record)
    # What was seen of the old files says nothing about the new ones, but that weights are damaged stays true.
    old = {"self_test": None, **({} if last and last.bad else {"checked": None})} if changed else {}
    done = {"when": now(), "files": changed, "notes": [note.to_json() for note in finished.notes]}
    return {
        **record,
        **old,
        "template": template.name,
        "system": template.system,
        "stop": list(template.stops),
        "context": finished.context,
        "files": {**(known if isinstance(known, dict) else {}), **sums},
        "repairs": [*rows(record.get("repairs")), done][-_MOST_REPAIRS:],
    }


def _keep(folder: Path, names: list[str]) -> None:
    """Copy the files that are about to be replaced; those of an earlier repair stay the ones to go back to."""
    before = folder / BEFORE
    if before.is_symlink():  # not ours: whatever it leads to is not for us to write into
        raise WeightsError("weights.link_outside", file=BEFORE, folder=str(folder))
    listed = _listed(before)
    before.mkdir(exist_ok=True)
    for name in names:
        if name not in listed:
            here = (folder / name).is_file()
            if here:
                replace_file(before / name, inside(folder, name).read_bytes())
            listed[name] = here
    replace_file(before / _LIST, json.dumps({"files": listed, "when": now()}, indent=1).encode())
    sync_folder(folder)


def _listed(before: Path) -> dict[str, bool]:
    """Return name -> whether the file was there before the first repair."""
    files = small_json(before / _LIST).get("files") if before.is_dir() else None
    return {str(name): here is True for name, here in files.items()} if isinstance(files, dict) else {}


def undo(folder: Path) -> None:
    """Bring back every file as it was before the first repair.

    Raises:
        UsageError: nothing was repaired.
        WeightsError: the list of what was replaced is damaged.
        MachineError: the folder cannot be written.
    """
    before = folder / BEFORE
    if before.is_symlink() or not before.is_dir():
        raise UsageError("models.not_repaired", name=folder.name)
    with writing(folder):
        for name, here in _checked(before):
            if here:
                replace_file(folder / name, (before / name).read_bytes())
            else:
                (folder / name).unlink(missing_ok=True)
        shutil.rmtree(before)


def _checked(before: Path) -> Iterator[tuple[str, bool]]:
    listed = _listed(before)
    for name, here in listed.items():
        if here and not inside(before, plain_name(name, _SMALL, _LIST)).is_file():
            raise WeightsError("weights.file_missing", file=name, folder=str(before))
    for name, here in listed.items():
        yield plain_name(name, _SMALL, _LIST), here
