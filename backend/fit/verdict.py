"""Will it run here? One model, one machine, every way of loading it: a verdict in words with the sum behind each.

The decision is the engine's own (``backend.fit.seat``), taken with what is free now. Where something is not known
there is no verdict, never a "no". Knows nothing about recipes, shelves or pages.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from backend.dimensions import Dimensions
from backend.fit import llamacpp
from backend.fit.memory import Correction, expected
from backend.fit.need import Need, is_batched, need_of
from backend.fit.result import Fit, Outlook, Verdict, Way
from backend.fit.seat import MIN_AUTO_CONTEXT, RESERVE, SEAMS, Machine, Room, Seat, Wish, in_ram, on_gpus
from backend.hardware import Hardware
from backend.text import Message, Value

RUNNABLE = ("llama", "t5", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")
ENOUGH = 8192  # tokens of conversation; a model that could take more still runs well with these
SLOW = 3.0  # tokens a second; people read faster than this
ROOMY = 1.1  # a way is tight that needs more than free / ROOMY
SMALL = 4_000_000_000  # bytes of weights that a CPU is quick with, where its speed was not measured
# bitsandbytes on a CPU unpacks every matrix for every token: measured 0.63 and 0.68 tokens a second with 1.1 billion
# weights in 8 and 4 bits where memory gave 20 GB/s.
_UNPACKING = 30
_RANK = {Verdict.WELL: 0, Verdict.TIGHT: 1, Verdict.NO: 2}


@dataclass(frozen=True)
class Known:
    """What was measured on this machine: bytes a second that RAM is read at, and how far earlier forecasts were off."""

    bandwidth: float | None = None
    correction: Correction = field(default_factory=Correction)
    llamacpp: bool = False  # on a CPU it computes what it can


@dataclass(frozen=True)
class Asked:
    """What a person fixed beforehand; 0 and "auto" leave it to the machine."""

    context: int = 0
    dtype: str = "auto"
    max_gpu_memory: int = 0


def look(
    size: Dimensions | None, hardware: Hardware, *, asked: Asked | None = None, known: Known | None = None
) -> Outlook:
    """Return every way of running a model on a machine as it is now, the one to pick first.

    ``best`` is None where the dimensions, or what is free, are not known.
    """
    if size is None:
        return Outlook(best=None)
    asked, known = asked or Asked(), known or Known()
    if size.stored is not None:
        return _as_stored(size, hardware, asked, known)
    if size.kind not in RUNNABLE:
        return Outlook(best=None, verdict=Verdict.NO, remedy=Message("fit.remedy.kind", {"kind": size.kind}))
    need = need_of(size, asked.context)
    by_llamacpp = known.llamacpp and size.kind in llamacpp.KINDS and asked.dtype in ("auto", "float16")
    by_llamacpp = by_llamacpp and asked.context <= llamacpp.longest(size)
    there = [way for way in ways(hardware, by_llamacpp=by_llamacpp) if _is_known(way, hardware)]
    found = [_judge(_Case(size, need, way, hardware, asked, known)) for way in there]
    found.sort(key=_order)
    best = found[0] if found else None
    return Outlook(best=best, ways=tuple(found), verdict=best.verdict if best else None)


def _as_stored(size: Dimensions, hardware: Hardware, asked: Asked, known: Known) -> Outlook:
    """Return the one way of a ready-made GGUF file: llama.cpp, on the CPU, with the bits that it has."""
    way = Way("cpu", engine="llamacpp", stored=True)
    if not known.llamacpp or not _is_known(way, hardware):
        return Outlook(best=None)
    fit = _judge(_Case(size, need_of(size, asked.context), way, hardware, asked, known))
    return Outlook(best=fit, ways=(fit,), verdict=fit.verdict)


def ways(hardware: Hardware, *, by_llamacpp: bool = False) -> Iterator[Way]:
    """Yield the ways there are on a machine: 16, 8 and 4 bits; 1..N GPUs, the freest first; Apple's; the CPU, with
    llama.cpp if it computes this model there.
    """
    sizes = (16, 8, 4) if hardware.versions.get("bitsandbytes") else (16,)
    cards = sorted(hardware.gpus, key=lambda gpu: (-(gpu.free_bytes or 0), gpu.index))
    if hardware.torch_cuda != "cpu":
        for count in range(1, len(cards) + 1):
            for bits in sizes:
                yield Way("cuda", bits, tuple(sorted(gpu.index for gpu in cards[:count])))
    if hardware.mps:
        yield Way("mps", 16)
    for bits in (16, 8, 4) if by_llamacpp else sizes:
        yield Way("cpu", bits, engine="llamacpp" if by_llamacpp else "transformers")


def _is_known(way: Way, hardware: Hardware) -> bool:
    if way.device != "cuda":
        return hardware.ram_free is not None
    return all(gpu.free_bytes is not None for gpu in hardware.gpus if gpu.index in way.gpus)


def _order(fit: Fit) -> tuple[float, ...]:
    """Return what ways are sorted by: what runs well, on a GPU, with the most bits; a slow CPU's, by speed."""
    slow = fit.verdict is not Verdict.WELL and fit.tokens_per_s is not None
    quality = -(fit.tokens_per_s or 0.0) if slow else float(-fit.way.bits)
    return _RANK[fit.verdict], fit.way.device == "cpu", quality, len(fit.way.gpus)


@dataclass(frozen=True)
class _Case:
    """One way of one model on one machine, on its way to a verdict."""

    size: Dimensions
    need: Need
    way: Way
    hardware: Hardware
    asked: Asked
    known: Known

    @property
    def wish(self) -> Wish:
        return Wish(
            self.way.bits,
            self.asked.dtype,
            self.asked.context,
            len(self.way.gpus),
            self.asked.max_gpu_memory,
            not is_batched(self.size),
        )

    @property
    def by_llamacpp(self) -> bool:
        return self.way.engine == "llamacpp"

    @property
    def wanted(self) -> int:
        """Tokens of context that were asked for, or that this way can compute."""
        return self.asked.context or (llamacpp.longest(self.size) if self.by_llamacpp else self.need.context)

    @property
    def machine(self) -> Machine:
        cards = [gpu for gpu in self.hardware.gpus if gpu.index in self.way.gpus]
        rooms = tuple(Room(gpu.index, gpu.name, gpu.free_bytes or 0) for gpu in cards)
        return Machine(self.hardware.ram_free or 0, rooms, self.hardware.mps)

    @property
    def place(self) -> str:
        if self.way.device == "cuda":
            return "GPU " + "+".join(map(str, self.way.gpus))
        return {"mps": "Apple GPU"}.get(self.way.device, "CPU")

    @property
    def free(self) -> int:
        """Bytes that are free in all."""
        return sum(room.free for room in self.machine.gpus) if self.way.device == "cuda" else self.machine.ram_free


def _judge(case: _Case) -> Fit:
    seat = _seat(case)
    if case.by_llamacpp:
        memory = llamacpp.foretold(case.size, case.way.bits, seat, correction=case.known.correction.llamacpp)
    else:
        memory = expected(case.need, case.way.bits, _seated(seat, case), case.known.correction)
    where = [str(index) for index in case.way.gpus] or ["ram"]
    free: dict[str, int | None] = {str(room.index): room.free for room in case.machine.gpus} or {
        "ram": case.hardware.ram_free
    }
    rate = _tokens_per_s(case, seat) if case.way.device == "cpu" else None
    verdict, why = _verdict(case, seat, rate)
    least = case.asked.context or min(case.wanted, MIN_AUTO_CONTEXT)
    tokens = ENOUGH if _is_long(case, seat) else seat.context or least
    return Fit(
        way=replace(case.way, dtype=seat.dtype, context=case.asked.context),
        verdict=verdict,
        needs=dict.fromkeys(where, memory),
        free=free,
        why=why,
        context=seat.context,
        tokens_per_s=rate,
        enough=_needed(case, seat, tokens) if seat.context else seat.least,
        enough_for=tokens,
    )


def _seat(case: _Case) -> Seat:
    if case.by_llamacpp:
        return llamacpp.seat(case.size, case.way.bits, free=case.machine.ram_free, asked=case.asked.context)
    if case.way.device == "cuda":
        return on_gpus(case.need, case.wish, case.machine)
    return in_ram(case.need, case.wish, case.machine, case.way.device)


def _seated(seat: Seat, case: _Case) -> Seat:
    """Return the decision, or where nothing fits, the smallest that would be worth having."""
    return seat if seat.context else replace(seat, context=case.wanted)


def _needed(case: _Case, seat: Seat, context: int) -> int:
    """Return the free bytes that a way takes in all, with what the engine leaves for everybody else."""
    need, bits = case.need, case.way.bits
    if case.by_llamacpp:
        return llamacpp.needed(case.size, bits, context)
    held = need.weights(bits, seat.dtype) + need.fixed(bits, seat.dtype, seat.batching)
    total = held + context * need.token(seat.dtype, seat.batching)
    count = max(1, len(seat.gpus))
    return (int(total / SEAMS) if count > 1 else total) + RESERVE * count


def _is_long(case: _Case, seat: Seat) -> bool:
    """Tell whether what fits is less than the model could take, and plenty all the same."""
    return case.wanted > seat.context >= ENOUGH


def _verdict(case: _Case, seat: Seat, rate: float | None) -> tuple[Verdict, Message]:
    wanted, long = case.wanted, _is_long(case, seat)
    need = _needed(case, seat, ENOUGH if long else wanted)
    values: dict[str, Value] = {"place": case.place, "need": need, "free": case.free}
    if not seat.context:
        return Verdict.NO, Message("fit.why.no", {**values, "need": seat.least})
    contexts: dict[str, Value] = {"context": seat.context, "wanted": wanted}
    if seat.context < wanted and not long:
        return Verdict.TIGHT, Message("fit.why.context", {**values, **contexts})
    if case.way.device == "cpu":
        if rate is not None and rate < SLOW:
            return Verdict.TIGHT, Message("fit.why.slow", {**values, "rate": rate})
        if rate is None and _read_per_token(case, seat) > SMALL:
            return Verdict.TIGHT, Message("fit.why.cpu", values)
    if need * ROOMY > case.free:
        return Verdict.TIGHT, Message("fit.why.room", values)
    if long:
        return Verdict.WELL, Message("fit.why.well_context", {**values, **contexts})
    if rate is not None:
        return Verdict.WELL, Message("fit.why.well_rate", {**values, "rate": rate})
    return Verdict.WELL, Message("fit.why.well", values)


def _tokens_per_s(case: _Case, seat: Seat) -> float | None:
    """Return a bound: each token reads every weight it uses once, and memory gives no more than so many bytes."""
    return case.known.bandwidth / _read_per_token(case, seat) if case.known.bandwidth else None


def _read_per_token(case: _Case, seat: Seat) -> float:
    """Return the bytes that memory moves for one token: each weight it uses, once."""
    share = case.size.active_parameters / max(1, case.size.parameters)
    if case.by_llamacpp:
        return max(1.0, share * llamacpp.weights_bytes(case.size, case.way.bits))
    if case.way.bits == 16:
        return max(1.0, share * case.need.weights(16, seat.dtype))
    return max(1.0, share * case.need.matrices * _UNPACKING)
