"""The record of a folder that somebody put on the shelf by hand: what is known about it without its maker.

Knows nothing about the sums of its files: they come with a check.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend.errors import CriaError
from backend.library.listing import list_folder
from backend.library.record import RECORD, small_json
from backend.recipes import META
from backend.text import Message
from backend.weights.checkpoint import Checkpoint
from backend.weights.dtypes import CONFIG_NAMES
from backend.weights.finish import rehearse_finish
from backend.weights.opening import open_checkpoint
from backend.weights.provenance import Provenance, to_table
from backend.weights.templates import Template


def now() -> str:
    """Return the moment as an ISO date-time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_of(folder: Path) -> dict[str, Any]:
    """Return a folder's record as it is on the disk, or a new one for a folder that was put here by hand."""
    known = small_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    return known or adopted(folder)


def adopted(folder: Path) -> dict[str, Any]:
    """Return a new record. An adapter, or what cannot be opened, gets one without figures."""
    try:
        checkpoint = open_checkpoint(folder)
        template, notes = (None, ()) if checkpoint.kind == "meta" else rehearse_finish(checkpoint, [folder])
    except CriaError:
        return _table(folder, None, None, ())
    return _table(folder, checkpoint, template, notes)


def _table(
    folder: Path, checkpoint: Checkpoint | None, template: Template | None, notes: tuple[Message, ...]
) -> dict[str, Any]:
    meta = checkpoint is not None and checkpoint.kind == "meta"
    known = Provenance(
        recipe=None,
        origins=(),
        template=template.name if template else "",
        system=template.system if template else "",
        stops=template.stops if template else (),
        context=checkpoint.shape.max_positions if checkpoint else 0,
        parameters=checkpoint.parameters if checkpoint else 0,
        dtype=CONFIG_NAMES[checkpoint.dtype] if checkpoint else "",
        notes=(*(checkpoint.notes if checkpoint else ()), *notes),
        made=now(),
        bytes=list_folder(folder).bytes,
        layout=META if meta else "huggingface",
    )
    table: Mapping[str, Any] = to_table(known)
    return {**table, "adopted": known.made}
