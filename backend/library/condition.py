"""What a look into a model folder found, as plain values that cross a process and a file: figures, and what is wrong.

Knows nothing about how it is found out, or how it is drawn.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from backend.errors import CriaError
from backend.text import Message


class Way(StrEnum):
    """The way out of a fault that Cria can go by itself; ``NONE``: only a person can."""

    NONE = ""
    MEND = "mend"  # rewrite the small files; the weights stay as they are
    CONVERT = "convert"  # Meta's layout into Hugging Face's
    MERGE = "merge"  # fold an adapter into its base
    DELTA = "delta"  # add a delta to its base


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: in words, the way out in words, and the way that a button goes."""

    say: Message
    hint: Message | None = None
    way: Way = Way.NONE

    @staticmethod
    def of(error: CriaError, way: Way = Way.NONE) -> "Fault":
        """Return the fault that an error tells of."""
        return Fault(error.message, error.hint, way)


@dataclass(frozen=True)
class Condition:
    """``template``: the one that the folder brings or that a repair would write; ``guessed``: from its name alone;
    None where nothing tells.

    ``base``: what an adapter says it was trained on.
    """

    parameters: int | None = None
    dtype: str | None = None
    rows: int | None = None
    template: str | None = None
    guessed: bool = False
    base: str | None = None
    faults: tuple[Fault, ...] = ()

    def goes(self, way: Way) -> bool:
        """Tell whether one of the faults is mended that way."""
        return any(fault.way is way for fault in self.faults)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the inverse of ``from_json``."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Condition":
        """Build findings from what ``to_json`` returned.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        return Condition(**{**data, "faults": tuple(_fault(fault) for fault in data["faults"])})


def _fault(data: Mapping[str, Any]) -> Fault:
    hint = Message.from_json(data["hint"]) if data["hint"] else None
    return Fault(Message.from_json(data["say"]), hint, Way(data["way"]))
