"""What a fit is: one way of running a model on a machine, the memory it takes, and the verdict. Computes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from backend.text import Message


class Verdict(StrEnum):
    """``WELL``: with room to spare. ``TIGHT``: it runs, with less context, on the CPU, or with hardly any room."""

    WELL = "well"
    TIGHT = "tight"
    NO = "no"


@dataclass(frozen=True)
class Way:
    """One way of loading: the options a person would pick. ``gpus`` are driver indices, empty on a CPU."""

    device: str  # "cuda", "cpu" or "mps"
    bits: int = 16
    gpus: tuple[int, ...] = ()
    dtype: str = "auto"
    context: int = 0  # 0: what the model was made for
    engine: str = ""  # empty: the one that is picked by itself
    stored: bool = False  # the weights stay as their file has them: ``bits`` says nothing


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, term by term; ``formula`` says how each was worked out, for those who ask."""

    weights: int
    cache: int
    work: int  # activations and logits
    overhead: int  # driver's context, libraries, the process itself
    formula: tuple[Message, ...] = ()

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.cache + self.work + self.overhead


@dataclass(frozen=True)
class Fit:
    """The verdict on one way. ``needs`` and ``free`` are per place: ``"ram"`` or a GPU's index as text.

    ``context`` is what it would run with; ``tokens_per_s`` is a bound, None where the bandwidth is not known.
    ``enough`` is the free bytes it takes for one conversation of ``enough_for`` tokens, with a reserve: less than is
    held where more is free, because more conversations then run at once.
    """

    way: Way
    verdict: Verdict
    needs: Mapping[str, Memory]
    free: Mapping[str, int | None]
    why: Message
    context: int
    remedy: Message | None = None  # the cheapest change that makes it fit
    tokens_per_s: float | None = None
    enough: int = 0
    enough_for: int = 0


@dataclass(frozen=True)
class Outlook:
    """Everything there is to say about one model on this machine: the way to pick, all ways, making it, the way out."""

    best: Fit | None  # None: the dimensions are not known
    ways: tuple[Fit, ...] = ()
    disk_needed: int | None = None  # bytes at the most while it is made, sources kept
    disk_needed_lean: int | None = None  # the same with sources removed on the way
    disk_free: int | None = None
    memory_needed: int | None = None  # bytes of RAM while it is made
    verdict: Verdict | None = None  # of running and making together
    remedy: Message | None = None
    alternatives: tuple[str, ...] = field(default=())  # recipes of the same family that do fit, largest first
