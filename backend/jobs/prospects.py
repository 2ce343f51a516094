"""Will it run here, asked by recipe or by model on the shelf: what there is to say, how long a set-up takes, and with
which options to load. Asks no network and opens no weights. Knows nothing about pages.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from backend.dimensions import Dimensions
from backend.engines.admission import admit
from backend.engines.base import EngineOptions, EngineStatus
from backend.engines.choice import choose_engine
from backend.engines.fitting import Fitting, best_options, chosen, dimensions_of, without
from backend.errors import CriaError
from backend.fit.measured import Load
from backend.fit.remedy import Making, advise, with_alternatives, with_making
from backend.fit.result import Fit, Outlook, Verdict
from backend.hardware import Hardware, ram_holders
from backend.jobs.manager import JobManager
from backend.jobs.network import network_rate
from backend.library import ModelInfo
from backend.plan import Plan, Stored, estimate_plan
from backend.rates import Rates
from backend.recipes import Recipe

Look = Callable[[], Hardware]
_T = TypeVar("_T")
_STEADY = 50  # a fiftieth of all memory: less than that is other programs' breathing, and no reason to judge anew
_MOMENT_S = 2.0  # ninety recipes asked for one after the other see the same machine


class _Moment(Generic[_T]):
    """A value that is looked up anew once it is more than a moment old."""

    def __init__(self, look: Callable[[], _T]) -> None:
        self._look, self._lock = look, threading.Lock()
        self._seen: tuple[float, _T] | None = None

    def __call__(self) -> _T:
        with self._lock:
            now = time.monotonic()
            if self._seen is None or now - self._seen[0] > _MOMENT_S:
                self._seen = (now, self._look())
            return self._seen[1]


class Prospects:
    """Verdicts on recipes and models. ``fitting`` remembers what was measured."""

    def __init__(
        self,
        fitting: Fitting,
        jobs: JobManager,
        jobs_dir: Path,
        *,
        hardware: Look,
        status: Callable[[], EngineStatus],
        recipes: Callable[[], Sequence[Recipe]] = tuple,
        stored: Callable[[], Stored] = dict,
    ) -> None:
        """``recipes``: what there is, to name a smaller size of a model from; ``stored``: what was downloaded."""
        self.fitting = fitting
        self._status = status
        self._hardware, self._recipes = _Moment(partial(self._calm, hardware)), _Moment(recipes)
        self._seen: Hardware | None = None
        self._holders = _Moment(lambda: ram_holders(except_pid=status().pid))
        self.stored = _Moment(stored)
        self._network = _Moment(lambda: network_rate(jobs, jobs_dir))

    def rates(self) -> Rates:
        """Return this machine's speeds as far as they were measured, a plain machine's else. Measures nothing."""
        speeds, usual, network = self.fitting.measured().speeds, Rates(), self._network()
        read = speeds.read or speeds.write if speeds else None
        write = speeds.write if speeds else None
        return Rates(
            read=read or usual.read,
            write=write or usual.write,
            network=network or usual.network,
            disk_measured=write is not None,
            network_measured=network is not None,
        )

    def measure_later(self, folder: Path, *, again: bool = False) -> None:
        """Measure this machine's speeds beside everything else, if they are not known or too old, or ``again``."""
        work = partial(self.fitting.measure_speeds, folder, again=again)
        threading.Thread(target=work, name="speeds", daemon=True).start()

    def of_recipe(self, recipe: Recipe, options: EngineOptions) -> Outlook:
        """Return the outlook of making and running a recipe."""
        hardware = self.machine()
        found = self._looked(_size(recipe), options, hardware)
        if (plan := self._plan(recipe)) is not None:
            making = Making(plan.disk_bytes, plan.lean_disk_bytes, plan.must_have_memory)
            found = with_making(found, making, hardware)
        if found.verdict in (Verdict.NO, Verdict.TIGHT):
            found = with_alternatives(found, self._others(recipe, options, hardware))
        return found

    def of_model(self, model: ModelInfo, options: EngineOptions) -> Outlook:
        """Return the outlook of running a model on the shelf."""
        return self._looked(dimensions_of(model), options, self.machine())

    def precisions(self, model: ModelInfo, options: EngineOptions) -> tuple[tuple[Fit, Load | None], ...]:
        """Return what 16, 8 and 4 bits would mean where these options put a model: the forecast, and its last load."""
        found, machine = self.of_model(model, options), self.machine()
        asked = [replace(options, bits=bits) for bits in (16, 8, 4)]
        fits = [(one, fit) for one in asked if (fit := chosen(found, one, machine)) is not None]
        return tuple((fit, self.fitting.last(model.name, one, fit.way)) for one, fit in fits)

    def meant(self, model: ModelInfo, options: EngineOptions) -> EngineOptions:
        """Return the options as the engine takes them: an automatic engine becomes the one that would compute."""
        return choose_engine(options, self.machine(), model.folder)[0]

    def check(self, model: ModelInfo, options: EngineOptions) -> None:
        """Make sure, as a load would, that a model can be loaded with these options; reads headers.

        Raises:
            UsageError, WeightsError: it cannot.
        """
        admit(model.folder, options, self.machine())

    def best_options(self, model: ModelInfo, given: EngineOptions) -> EngineOptions:
        """Return the options to load a model with; those of the command line stay."""
        hardware = self.machine()
        return best_options(self.fitting.look(dimensions_of(model), hardware, given), given, hardware)

    def machine(self) -> Hardware:
        """Return the machine as it is for the next model: what is loaded now makes room for it."""
        return without(self._hardware(), self._status())

    def _calm(self, look: Look) -> Hardware:
        """Look at the machine; free memory that has hardly moved counts as it was, so that no verdict flickers."""
        found, before = look(), self._seen
        if before is not None and None not in (found.ram_free, before.ram_free, found.ram_total):
            moved = abs((found.ram_free or 0) - (before.ram_free or 0))
            if moved < (found.ram_total or 0) // _STEADY:
                found = replace(found, ram_free=before.ram_free)
        self._seen = found
        return found

    def _looked(self, size: Dimensions | None, options: EngineOptions, hardware: Hardware) -> Outlook:
        found = self.fitting.look(size, hardware, options)
        short = any(fit.verdict is not Verdict.WELL and fit.way.device != "cuda" for fit in found.ways)
        return advise(found, hardware, self._holders() if short else ())

    def _plan(self, recipe: Recipe) -> Plan | None:
        """Return the plan as the recipe's own figures have it; None where it has none."""
        try:
            return estimate_plan(recipe, stored=self.stored())
        except CriaError:
            return None

    def _others(self, recipe: Recipe, options: EngineOptions, hardware: Hardware) -> tuple[str, ...]:
        """Return the other sizes of the same model that run better here, the largest first."""
        if not recipe.family or recipe.shape is None:
            return ()
        family = [
            one for one in self._recipes() if one.family == recipe.family and one.name != recipe.name and one.shape
        ]
        family.sort(key=lambda one: -(one.parameters or 0))
        well: list[str] = []
        tight: list[str] = []
        for one in family:
            if (one.parameters or 0) >= recipe.shape.parameters:
                continue
            verdict = self.fitting.look(_size(one), hardware, options).verdict
            if verdict in (Verdict.WELL, Verdict.TIGHT):
                (well if verdict is Verdict.WELL else tight).append(one.name)
        return tuple(well or tight)


def _size(recipe: Recipe) -> Dimensions | None:
    return replace(recipe.shape, context=recipe.context) if recipe.shape and recipe.context else recipe.shape
