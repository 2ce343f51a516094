"""The cheapest change that makes a model fit, and what setting it up takes of disk and memory. Verdicts come in.

Cheapest first: fewer bits in the same place, another place, asking whoever holds the rest, a smaller model. Knows
nothing about how memory was counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.fit.result import Fit, Outlook, Verdict
from backend.hardware import GpuProcess, Hardware
from backend.text import Message, Value

DISK_RESERVE = 200_000_000  # bytes that a set-up leaves free
_WORST = (Verdict.WELL, Verdict.TIGHT, Verdict.NO)


@dataclass(frozen=True)
class Making:
    """What setting a model up takes at its worst moment, in bytes: the disk with sources kept and removed, and RAM."""

    disk: int
    disk_lean: int | None = None
    memory: int | None = None


def advise(outlook: Outlook, hardware: Hardware, holders: Sequence[GpuProcess] = ()) -> Outlook:
    """Return the outlook with a way out beside every way that is tight or does not fit.

    ``holders``: who holds the most RAM, the largest first.
    """
    better = [fit for fit in outlook.ways if fit.verdict is not Verdict.NO]
    advised = tuple(
        fit if fit.verdict is Verdict.WELL else replace(fit, remedy=_remedy(fit, better, hardware, holders))
        for fit in outlook.ways
    )
    best = advised[0] if advised else None
    remedy = outlook.remedy or (best.remedy if best is not None and best.verdict is not Verdict.WELL else None)
    if remedy is None and best is not None and best.verdict is not Verdict.WELL:
        remedy = _software(hardware)
    return replace(outlook, best=best, ways=advised, remedy=remedy)


def _remedy(fit: Fit, others: Sequence[Fit], hardware: Hardware, holders: Sequence[GpuProcess]) -> Message | None:
    well = [one for one in others if one.verdict is Verdict.WELL or fit.verdict is Verdict.NO]
    same = [one for one in well if (one.way.device, one.way.gpus) == (fit.way.device, fit.way.gpus)]
    fewer = [one for one in same if one.way.bits < fit.way.bits]
    if fewer and not _is_slow(fit):
        return Message("fit.remedy.bits", {"bits": max(one.way.bits for one in fewer), "place": place(fit)})
    elsewhere = [one for one in well if one.way.device != "cpu" and one.way.gpus != fit.way.gpus]
    if elsewhere:
        best = max(elsewhere, key=lambda one: (one.verdict is Verdict.WELL, one.way.bits, -len(one.way.gpus)))
        key = "fit.remedy.place" if best.way.bits == 16 else "fit.remedy.place_bits"
        return Message(key, {"place": place(best), "bits": best.way.bits})
    holder = None if _is_slow(fit) else _holder(fit, hardware, holders)
    if holder is not None:
        return holder
    if fit.verdict is Verdict.NO and any(one.way.device == "cpu" for one in well) and fit.way.device != "cpu":
        return Message("fit.remedy.cpu")
    return None


def _is_slow(fit: Fit) -> bool:
    """Tell whether room is not what it lacks."""
    return fit.why.key in ("fit.why.slow", "fit.why.cpu")


def place(fit: Fit) -> str:
    """Return where a way runs, in words that are the same in every language."""
    return str(fit.why.params.get("place", "?"))


def enough(fit: Fit) -> Message:
    """Return what must be free for it, and how that goes with what is held."""
    key = "fit.table.least" if fit.verdict is Verdict.NO else "fit.table.enough"
    return Message(key, {"need": fit.enough, "tokens": fit.enough_for})


def _holder(fit: Fit, hardware: Hardware, holders: Sequence[GpuProcess]) -> Message | None:
    """Return who holds enough, on the GPU of a way or in RAM, that without them it would fit."""
    need, free = fit.why.params.get("need"), fit.why.params.get("free")
    if not isinstance(need, int) or not isinstance(free, int) or len(fit.way.gpus) > 1:
        return None
    if fit.way.device == "cuda":
        holders = [one for gpu in hardware.gpus if gpu.index in fit.way.gpus for one in gpu.processes]
    large = max((one for one in holders if one.bytes), key=lambda one: one.bytes or 0, default=None)
    if large is None or free + (large.bytes or 0) < need:
        return None
    values: dict[str, Value] = {"name": large.name or str(large.pid), "user": large.user or "?", "pid": large.pid}
    return Message("fit.remedy.close", {**values, "held": large.bytes, "place": place(fit)})


def _software(hardware: Hardware) -> Message | None:
    """Return the package that would open a better way, if one is missing."""
    if hardware.gpus and hardware.torch_cuda == "cpu":
        return Message("fit.remedy.torch", {"count": len(hardware.gpus)})
    if not hardware.versions.get("bitsandbytes") and not hardware.mps:
        return Message("fit.remedy.bitsandbytes")
    return None


def with_making(outlook: Outlook, making: Making, hardware: Hardware) -> Outlook:
    """Return the outlook with what setting the model up takes; too little disk or RAM for that is a "no" as well."""
    verdict, remedy = _making(making, hardware)
    worst = outlook.verdict
    if verdict is not Verdict.WELL:
        worst = max(verdict, outlook.verdict or verdict, key=_WORST.index)
    return replace(
        outlook,
        disk_needed=making.disk,
        disk_needed_lean=making.disk_lean,
        disk_free=hardware.disk_free,
        memory_needed=making.memory,
        verdict=worst,
        remedy=remedy if verdict is Verdict.NO else outlook.remedy or remedy,
    )


def has_disk(outlook: Outlook) -> bool:
    """Tell whether the free disk has room to set a model up, with sources removed on the way; yes where unknown."""
    need = outlook.disk_needed if outlook.disk_needed_lean is None else outlook.disk_needed_lean
    return need is None or outlook.disk_free is None or outlook.disk_free >= need + DISK_RESERVE


def _making(making: Making, hardware: Hardware) -> tuple[Verdict, Message | None]:
    free, lean = hardware.disk_free, making.disk if making.disk_lean is None else making.disk_lean
    if free is not None and free < lean + DISK_RESERVE:
        return Verdict.NO, Message("fit.remedy.disk", {"need": lean + DISK_RESERVE, "free": free})
    if hardware.ram_free is not None and making.memory is not None and hardware.ram_free < making.memory:
        return Verdict.NO, Message("fit.remedy.memory", {"need": making.memory, "free": hardware.ram_free})
    if free is not None and free < making.disk + DISK_RESERVE:
        return Verdict.TIGHT, Message("fit.remedy.lean", {"need": lean, "free": free})
    return Verdict.WELL, None


def with_alternatives(outlook: Outlook, names: Sequence[str]) -> Outlook:
    """Return the outlook with other sizes of the same model that fit here, the largest first."""
    if not names:
        return outlook
    smaller = Message("fit.remedy.smaller", {"name": names[0]})
    remedy = outlook.remedy or (smaller if outlook.verdict is Verdict.NO else None)
    return replace(outlook, alternatives=tuple(names), remedy=remedy)
