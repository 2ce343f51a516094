"""What long work says while it runs: small records, yielded by steps, written to a journal, drawn by anyone.

Knows nothing about journals, bars or pages.
"""

from dataclasses import dataclass

from backend.text import Message


@dataclass(frozen=True)
class FileProgress:
    """``done`` of ``total`` bytes of one file are there."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units of a step are finished; ``note`` says in plain words what happens now.

    ``files`` are those on their way, when a step works on several at once.
    """

    done: int
    total: int
    note: Message | None = None
    files: tuple[FileProgress, ...] = ()


@dataclass(frozen=True)
class Log:
    """A fact worth keeping: something found, repaired or decided."""

    message: Message


Event = Progress | Log
