"""Which prompt template a repair writes where a folder lost its own: the one on record. Knows nothing about weights."""

from pathlib import Path

from backend.library.record import RECORD, small_json, text
from backend.weights.templates import NAMES
from backend.weights.tokenizer_settings import template_in


def recorded_template(folder: Path) -> str | None:
    """Return the template that cria.json names for a folder that has none itself; None where nothing was decided.

    ``plain`` in the record of a folder that was put here by hand is no decision: nobody could tell.
    """
    record = small_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    name = text(record.get("template"))
    if name not in NAMES or template_in(folder) is not None:
        return None
    return None if record.get("adopted") and name.startswith("plain") else name
