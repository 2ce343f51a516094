"""How large the models are that run here, and that the disk has room to set up: one answer for page and terminal.

Knows nothing about words, and nothing about how a fit is worked out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.fit.remedy import has_disk
from backend.fit.result import Fit, Outlook, Verdict


class Size(Protocol):
    """What a recipe says of its size: as people say it, and in parameters."""

    @property
    def size(self) -> str: ...

    @property
    def parameters(self) -> int | None: ...


@dataclass(frozen=True)
class Sized:
    """A model of so many parameters, the best way to run it here, and whether the disk has room to set it up."""

    size: str  # as people say it: 7B
    parameters: int
    fit: Fit
    disk: bool = True


def sized(models: Iterable[tuple[Size, Outlook | None]]) -> list[Sized]:
    """Return the models whose size and fit are known."""
    return [
        Sized(one.size, one.parameters, outlook.best, has_disk(outlook))
        for one, outlook in models
        if outlook is not None and outlook.best is not None and one.size and one.parameters
    ]


def widest(models: Sequence[Sized], verdict: Verdict) -> Sized | None:
    """Return the largest model with a verdict."""
    return max((one for one in models if one.fit.verdict is verdict), key=lambda one: one.parameters, default=None)


def made(models: Sequence[Sized]) -> Sized | None:
    """Return the largest model that runs and that the disk has room to set up, with sources removed on the way."""
    there = [one for one in models if one.disk and one.fit.verdict is not Verdict.NO]
    return max(there, key=lambda one: one.parameters, default=None)
