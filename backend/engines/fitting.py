"""What fits here, for engines: verdicts on models, the options to load one with, and forecasts held against the facts.

A forecast is made when a load begins and compared when the engine is ready; both go into the machine's memory, so that
the next forecast is better. Knows nothing about recipes, jobs or pages.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from backend.dimensions import Dimensions, dimensions_from_config
from backend.engines import AUTO, ENGINES, USUAL, is_installed
from backend.engines.adapters import count_numbers
from backend.engines.base import EngineOptions, EngineState, EngineStatus
from backend.engines.choice import ON_CPU, has_instructions
from backend.engines.folder import small_json
from backend.fit.formats import ITEM
from backend.fit.measured import GPU, LLAMACPP, RAM, Load, Measured, Memo, Speeds
from backend.fit.result import Fit, Outlook, Way
from backend.fit.speeds import is_busy, measure, memory_rate
from backend.fit.verdict import Asked, Known, look
from backend.hardware import Hardware
from backend.library import ModelInfo, read_model
from backend.weights.gguf_ready import dimensions_in, glance

WEEK_S = 7 * 24 * 3600.0
PAUSE_S = 30.0  # nobody needs it more often, however many people press
_STEADY = 1.1  # a memory that is faster by less than this is as fast as before: no verdict shall turn on a breath
_NEWS = 0.05  # a speed that differs by less from the one that is remembered is not worth writing down
_FORETOLD = (AUTO, USUAL, ON_CPU)  # the engines whose memory is foretold


@dataclass(frozen=True)
class Forecast:
    """Bytes that a loaded model was foretold to hold and holds; ``before``: what it held when last loaded like this."""

    predicted: int
    measured: int
    gpu: bool
    before: int | None = None


@dataclass(frozen=True)
class _Expected:
    model: str
    way: str
    predicted: int
    kind: str
    correction: int
    before: int | None

    def load(self, held: int, now: float, rate: float) -> Load:
        """Return what there is to remember."""
        return Load(self.model, self.way, self.predicted, held, self.kind, self.correction, now, rate)


class Fitting:
    """Verdicts and forecasts over one data folder. Thread-safe."""

    def __init__(self, data_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._memo, self._clock = Memo(data_dir), clock
        self._lock, self._measuring = threading.Lock(), threading.Lock()
        self._expected: _Expected | None = None
        self._kept: Forecast | None = None
        self._rate = 0.0  # tokens a second, as remembered of what is loaded

    def measured(self) -> Measured:
        """Return what is remembered of this machine."""
        return self._memo.read()

    def last(self, model: str, options: EngineOptions, way: Way) -> Load | None:
        """Return what a model was like when it was loaded last in this way."""
        return self._memo.read().load(model, _name(options, way))

    def held(self, model: str) -> tuple[Load, ...]:
        """Return what a model was foretold to hold and held when it was loaded last, each way of loading once."""
        return tuple(one for one in self._memo.read().loads if one.model == model)

    def measure_memory(self) -> None:
        """Measure the memory alone, if that was never done: verdicts turn on it, so it comes before the first one."""
        with self._measuring:
            known = self._memo.read().speeds or Speeds()
            if known.memory is None:
                self._memo.keep_speeds(replace(known, busy=is_busy(), memory=memory_rate()))

    def measure_speeds(self, folder: Path, *, again: bool = False) -> Speeds:
        """Return this machine's speeds; measured now if they never were, a week ago, while the machine was busy as it
        is not now, or ``again``. Takes a second.
        """
        with self._measuring:
            known = self._memo.read().speeds
            if known is not None:
                soon = again or (known.busy and not is_busy())
                if 0 <= self._clock() - known.at < (PAUSE_S if soon else WEEK_S):
                    return known
            found = measure(folder, now=self._clock)
            # Whoever else computes now does not always: a slower memory than before is believed as little.
            if known is not None and known.memory and (found.memory or 0.0) < known.memory * _STEADY:
                found = replace(found, memory=known.memory, busy=found.busy and known.busy)
            self._memo.keep_speeds(found)
            return found

    def look(
        self, size: Dimensions | None, hardware: Hardware, options: EngineOptions, *, measured: Measured | None = None
    ) -> Outlook:
        """Return the outlook of a model with what the options fix: context, number format, a cap per GPU."""
        known = measured or self._memo.read()
        bandwidth = known.speeds.memory if known.speeds else None
        asked = Asked(options.context, options.dtype, options.max_gpu_memory)
        return look(size, hardware, asked=asked, known=Known(bandwidth, known.correction(), _has_llamacpp(options)))

    def expect(self, folder: Path, options: EngineOptions, hardware: Hardware) -> None:
        """Note what a load that begins now will hold; nothing where that cannot be told."""
        known, model = self._memo.read(), folder.name
        size = dimensions_of(read_model(folder)) if folder.is_dir() else None
        fit = chosen(self.look(size, hardware, options, measured=known), options, hardware)
        beside = count_numbers(options.loras)
        with self._lock:
            self._expected = self._kept = None
            if fit is None or not fit.context or options.engine not in _FORETOLD:
                return
            kind = GPU if fit.way.device == "cuda" else LLAMACPP if fit.way.engine == LLAMACPP else RAM
            way, last = _name(options, fit.way), known.load(model, _name(options, fit.way))
            correction: int = getattr(known.correction(), kind)
            self._expected = _Expected(
                model,
                way,
                sum(memory.total for memory in fit.needs.values()) + beside * ITEM[fit.way.dtype],
                kind,
                correction * max(1, len(fit.way.gpus)),
                last.measured if last else None,
            )

    def compare(self, status: EngineStatus, rate: float = 0.0) -> Forecast | None:
        """Return forecast and fact of the model that is loaded, and remember them; None where there is no forecast.

        ``rate``: tokens a second of its last reply that had the engine to itself, 0 while there was none.

        The first look at a ready engine counts: it has answered once by then, and later its libraries' own reserves
        grow with what people ask.
        """
        with self._lock:
            wanted = self._expected
            if wanted is None or status.model != wanted.model or status.state is not EngineState.READY:
                return None
            if (wanted.kind == LLAMACPP) != (status.options.engine == ON_CPU):  # another engine stood in for it
                return None
            gpu = wanted.kind == GPU
            held = status.gpu_memory_bytes if gpu else status.memory_bytes
            if self._kept is None and held:
                self._kept = Forecast(wanted.predicted, held, gpu, wanted.before)
                last = self._memo.read().load(wanted.model, wanted.way)
                self._rate = last.tokens_per_s if last else 0.0
                self._memo.keep_load(wanted.load(held, self._clock(), self._rate))
            if self._kept is not None and rate and abs(rate - self._rate) > _NEWS * self._rate:
                self._rate = rate
                self._memo.keep_load(wanted.load(self._kept.measured, self._clock(), rate))
            return self._kept


def dimensions_of(model: ModelInfo) -> Dimensions | None:
    """Return the dimensions of a model on the shelf from its config.json, its context as it was set up; of a ready-made
    GGUF, from what it says itself."""
    if model.ready:
        return dimensions_in(glance(model.folder, model.ready), model.bytes)
    size = dimensions_from_config(small_json(model.folder / "config.json"))
    return replace(size, context=model.context) if size and model.context else size


def without(hardware: Hardware, status: EngineStatus) -> Hardware:
    """Return the machine as it is once the loaded model has made room for the next one."""
    if status.state in (EngineState.OFF, EngineState.FAILED) or not status.pid:
        return hardware
    ram = None if hardware.ram_free is None else hardware.ram_free + status.memory_bytes
    cards = tuple(
        replace(
            gpu,
            free_bytes=None
            if gpu.free_bytes is None
            else gpu.free_bytes + sum(one.bytes or 0 for one in gpu.processes if one.pid == status.pid),
            processes=tuple(one for one in gpu.processes if one.pid != status.pid),
        )
        for gpu in hardware.gpus
    )
    return replace(hardware, ram_free=ram, gpus=cards)


def best_options(outlook: Outlook, given: EngineOptions, hardware: Hardware) -> EngineOptions:
    """Return the options to load a model with. What a person fixed on the command line stays as it is."""
    fixed = (given.bits != 16, given.device != "auto", given.gpus, given.num_gpus, given.dtype != "auto")
    if given.engine not in _FORETOLD or any(fixed) or outlook.best is None:
        return given
    way = outlook.best.way
    on_cpu = way.device == "cpu" and (hardware.gpus or hardware.mps)
    return replace(
        given,
        bits=way.bits,  # type: ignore[arg-type] # 16, 8 or 4: a way has no others
        device="cpu" if on_cpu else "auto",
        num_gpus=len(way.gpus) if len(way.gpus) > 1 else 0,
    )


def chosen(outlook: Outlook, options: EngineOptions, hardware: Hardware) -> Fit | None:
    """Return the way that these options mean, as the engine will choose it."""
    device = options.device
    if device == "auto":
        there = {fit.way.device for fit in outlook.ways}
        device = next((one for one in ("cuda", "mps") if one in there), "cpu")
    ways = [fit for fit in outlook.ways if fit.way.device == device and fit.way.bits == options.bits]
    asked = len(options.gpus) or options.num_gpus
    if device == "cuda" and asked:
        ways = [fit for fit in ways if len(fit.way.gpus) == asked]
    elif device == "cuda":  # one if that is enough, else all of them
        one = [fit for fit in ways if len(fit.way.gpus) == 1 and fit.context]
        ways = one or [fit for fit in ways if len(fit.way.gpus) == len(hardware.gpus)]
    return ways[0] if ways else None


def _has_llamacpp(options: EngineOptions) -> bool:
    """Tell whether llama.cpp is what computes on this CPU."""
    return options.engine == ON_CPU or (options.engine == AUTO and is_installed(ENGINES[ON_CPU]) and has_instructions())


def _name(options: EngineOptions, way: Way) -> str:
    """Return what tells one way of loading from another."""
    asked = f"{options.dtype} {options.context} {options.max_gpu_memory}"
    names = " ".join(sorted(lora.name for lora in options.loras))
    return f"{way.engine or way.device} {len(way.gpus)} {way.bits} {asked} {names}".strip()
