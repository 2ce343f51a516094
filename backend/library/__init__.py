"""The shelf of model folders: listed, examined, repaired, renamed, deleted. Knows nothing about jobs or engines.

The web process imports what is named here; ``examine`` and ``repair`` open weights and run in a child (``child``).
"""

from backend.library.changes import delete_model, rename_model
from backend.library.models import (
    CONVERTED,
    QUANTISED,
    ModelInfo,
    find_folder,
    find_model,
    read_model,
    read_models,
)
from backend.library.record import RECORD, Checked, Ingredient

__all__ = [
    "CONVERTED",
    "QUANTISED",
    "RECORD",
    "Checked",
    "Ingredient",
    "ModelInfo",
    "delete_model",
    "find_folder",
    "find_model",
    "read_model",
    "read_models",
    "rename_model",
]
