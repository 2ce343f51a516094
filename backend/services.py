"""The one value that ``app.py`` builds and hands to page, gateway and terminal: everything they may ask for.

Knows nothing about gradio, HTTP or argument parsing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from urllib.parse import urlsplit

from backend.conversations import Conversations
from backend.engines import AUTO, ENGINES, is_elsewhere
from backend.engines.attachable import Attachables, Offer
from backend.engines.base import EngineControl, EngineOptions, EngineStatus, Lora
from backend.engines.choice import ON_CPU
from backend.engines.elsewhere import folder_of, keyed, models_at
from backend.engines.fitting import Fitting, Forecast
from backend.engines.folder import weights_bytes
from backend.engines.line import Line
from backend.errors import CriaError, JobError
from backend.fit.result import Outlook
from backend.hardware import Hardware, probe
from backend.jobs.cancelling import cancel
from backend.jobs.examination import Findings, examine
from backend.jobs.manager import JobManager
from backend.jobs.presence import Presence
from backend.jobs.prospects import Prospects
from backend.jobs.revision import revised
from backend.jobs.shelf import Shelf
from backend.jobs.stock import Stock
from backend.library import ModelInfo, find_model, read_model
from backend.plan import Plan, check_plan, estimate_plan, make_plan
from backend.rates import Rates
from backend.recipes import Recipe, collect_recipes, find_recipe
from backend.settings import ASSETS, Settings
from backend.sources.access import Access
from backend.sources.access import DownloadChoice as DownloadChoice
from backend.sources.admission import check_admission
from backend.sources.pinned import is_remote
from backend.sources.pins import Pins
from backend.sources.remote import probe as probe_servers
from backend.sources.store import stored_bytes
from backend.text import Message
from backend.weights.templates import NAMES


@dataclass(frozen=True)
class Services:
    """Frozen bundle of what the edges use; its methods join two parts where neither should know the other.

    ``options`` are the engine options of the command line, the page's defaults; ``access`` says which servers are asked
    for weights; ``other`` is the server that had the data folder already; ``examiner`` looks at a plan's sources.
    """

    settings: Settings
    jobs: JobManager
    engine: EngineControl
    conversations: Conversations
    options: EngineOptions = field(default_factory=EngineOptions)
    access: Access = field(default_factory=Access)
    other: Presence | None = None
    examiner: Callable[[Plan, Path], Findings | None] = examine
    line: Line = field(default_factory=Line)
    pins: Pins = field(default_factory=Pins)

    def hardware(self) -> Hardware:
        """Look at the machine now."""
        return probe(self.settings.models_dir)

    def other_server(self) -> Message | None:
        """Return what to say about another server with the same data folder; None if there was none at the start."""
        if (other := self.other) is None:
            return None
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(other.since))
        where = {"folder": str(self.settings.data_dir), "host": other.host, "since": since, "url": other.url}
        return Message("fetchui.elsewhere", {**where, "pid": other.pid})

    def recipes(self) -> tuple[Recipe, ...]:
        """Return built-in and own recipes, recommended first."""
        return collect_recipes((ASSETS / "recipes", self.settings.recipes_dir)).recipes

    def recipe_problems(self) -> tuple[CriaError, ...]:
        """Return what is wrong with the recipe files that cannot be used."""
        return collect_recipes((ASSETS / "recipes", self.settings.recipes_dir)).problems

    def estimate(self, recipe: Recipe | str, *, name: str | None = None, self_test: bool = True) -> Plan:
        """Return the plan of a recipe as its own figures have it; asks no network and takes milliseconds.

        Raises:
            UsageError: no such recipe.
            SourceError: a source that should be on this machine is not, or the recipe does not say how large one is.
        """
        wanted = find_recipe(self.recipes(), recipe) if isinstance(recipe, str) else recipe
        stored = self.prospects.stored()
        return estimate_plan(wanted, name=name, self_test=self_test, rates=self.rates(), stored=stored)

    def is_remote(self, recipe: Recipe) -> bool:
        """Tell whether a recipe's plan asks the network, which takes seconds.

        Raises:
            SourceError: a source that cannot be understood.
        """
        return any(is_remote(part.source) for part in recipe.parts)

    def plan(
        self,
        recipe: Recipe | str,
        *,
        name: str | None = None,
        self_test: bool = True,
        choice: DownloadChoice | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Plan:
        """Return the plan of a recipe, given or by its name. A source that is not on this machine is looked up.

        ``choice``: None for the servers and tokens of the command line, also below. ``cancelled`` is asked about five
        times a second while servers are.

        Raises:
            UsageError: no such recipe, or a choice that cannot be used.
            SourceError: its sources are not there.
            Cancelled: ``cancelled`` said so.
        """
        wanted = find_recipe(self.recipes(), recipe) if isinstance(recipe, str) else recipe
        access = self._access(choice)
        find, admit = partial(self.pins, access=access, cancelled=cancelled), partial(check_admission, access=access)
        downloads, rates = self.settings.downloads_dir, self.rates()
        return make_plan(
            wanted, name=name, self_test=self_test, find=find, admit=admit, downloads=downloads, rates=rates
        )

    def _access(self, choice: DownloadChoice | None) -> Access:
        return self.access.through(choice.server, token=choice.token, rate=choice.rate) if choice else self.access

    def _environment(self, choice: DownloadChoice | None) -> dict[str, str] | None:
        return self._access(choice).to_environment() if choice else None

    def examine(self, wanted: Plan) -> tuple[Plan, Findings | None]:
        """Look at a plan's sources; return the plan with exact sizes, and what was found if that could be told now.

        Raises:
            CriaError: the sources cannot be put together; nothing was changed.
        """
        found = self.examiner(wanted, self.settings.downloads_dir)
        return (wanted.with_output(found.bytes) if found else wanted), found

    def set_up(self, wanted: Plan, *, choice: DownloadChoice | None = None, instead_of: str = "") -> str:
        """Check a plan against its sources and the machine as they are now, start it as a job; return the job's id.

        ``instead_of`` is a stopped job that is deleted once the new one has begun; its room counts as free.

        Raises:
            JobError: ``again.old_stays``: it has begun, but the old one could not be removed, or not all of it.
            CriaError: it cannot be started; nothing was changed.
        """
        exact, _ = self.examine(wanted)
        machine, old = self.hardware(), self.jobs.view(instead_of) if instead_of else None
        if old is not None and old.state.is_active:
            raise JobError("job.running", job=old.id)
        if old is not None and machine.disk_free is not None:
            machine = replace(machine, disk_free=machine.disk_free + old.leftover_bytes)
        check_plan(exact, machine, self.settings.models_dir)
        job = self.jobs.start(exact, environment=self._environment(choice))
        if old is not None:
            try:
                self.jobs.delete(old.id)
            except (CriaError, OSError) as problem:
                what = problem.params.get("what", old.id) if isinstance(problem, CriaError) else problem.strerror
                raise JobError("again.old_stays", name=exact.name, what=what or str(problem)) from problem
        return job

    def resume(
        self,
        job: str,
        *,
        choice: DownloadChoice | None = None,
        name: str = "",
        keep_sources: bool | None = None,
        self_test: bool = True,
    ) -> None:
        """Let a job go on; None for the choice it was started with. The other wishes change what it was asked for.

        Raises:
            JobError: there is none of that id, it is running, or it is done.
            UsageError: a choice or a name that cannot be used.
        """
        environment = self._environment(choice)
        old = self.jobs.plan(job)
        new = revised(old, self.settings.models_dir, name=name, keep_sources=keep_sources, self_test=self_test)
        if new != old:
            self.jobs.change(job, new)
        self.jobs.resume(job, environment=environment)

    def cancel(self, job: str) -> int:
        """Stop a job, remove it and what it made and fetched; return the bytes freed. ``jobs.pause`` keeps everything.

        Raises:
            JobError: there is none of that id, or it does not stop.
        """
        return cancel(self.jobs, self.settings.data_dir, job)

    def hosts(self) -> tuple[str, ...]:
        """Return the names of the servers that are asked unless somebody chooses another."""
        return tuple(urlsplit(endpoint).netloc for endpoint in self.access.endpoints)

    def known_servers(self) -> dict[str, str]:
        """Return address -> name of the servers that a person may choose from a list."""
        every = dict.fromkeys((*self.access.endpoints, *Access().endpoints))
        return {endpoint: urlsplit(endpoint).netloc for endpoint in every}

    def test_servers(self, choice: DownloadChoice | None = None) -> dict[str, float | None]:
        """Ask the usual servers and the chosen one; return name -> seconds, None for one that does not answer."""
        every = dict.fromkeys([*self._access(choice).endpoints, *self.access.endpoints])
        return {urlsplit(one.endpoint).netloc: one.seconds for one in probe_servers(tuple(every))}

    def templates(self) -> tuple[str, ...]:
        """Return the names of the prompt templates that a set-up may be told to use."""
        return NAMES

    @cached_property
    def attachables(self) -> Attachables:
        """The adapters on this machine, held against models."""
        return Attachables(self.settings.models_dir, self.settings.downloads_dir)

    @cached_property
    def stock(self) -> Stock:
        """What was fetched and is still here, and which set-ups need it."""
        return Stock(self.settings.downloads_dir, self.jobs)

    @cached_property
    def shelf(self) -> Shelf:
        """The models on this machine, with what is wrong with them and what may be done to them."""
        return Shelf(self.settings.data_dir, self.jobs, self.engine.status)

    @cached_property
    def prospects(self) -> Prospects:
        """What fits on this machine, and what was measured of it."""
        fitting, place = Fitting(self.settings.data_dir), self.settings.jobs_dir
        return Prospects(
            fitting,
            self.jobs,
            place,
            hardware=self.hardware,
            status=self.engine.status,
            recipes=self.recipes,
            stored=partial(stored_bytes, self.settings.downloads_dir),
        )

    def outlook(self, wanted: Recipe | ModelInfo | str) -> Outlook:
        """Return whether a recipe or a model runs here, in milliseconds; a name is a model's first, then a recipe's.

        Raises:
            UsageError: nothing has that name.
        """
        if isinstance(wanted, str):
            found = next((model for model in self.models() if model.name == wanted), None)
            wanted = found or find_recipe(self.recipes(), wanted)
        if isinstance(wanted, Recipe):
            return self.prospects.of_recipe(wanted, self.options)
        return self.prospects.of_model(wanted, self.options)

    def rates(self) -> Rates:
        """Return how fast this machine is, as far as that was measured."""
        return self.prospects.rates()

    def best_options(self, model: ModelInfo | str) -> EngineOptions:
        """Return the options to load a model with: those of the command line, completed by what fits.

        Raises:
            UsageError: no model has that name.
        """
        found = read_model(find_model(self.settings.models_dir, model)) if isinstance(model, str) else model
        return self.prospects.best_options(found, self.options)

    def forecast(self, status: EngineStatus) -> Forecast | None:
        """Return what the loaded model was foretold to hold and what it holds; None where nobody can tell."""
        last = self.line.tally.counts().last
        return self.prospects.fitting.compare(status, last.tokens_per_s if last.pid == status.pid else 0.0)

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the shelf, newest first."""
        return self.shelf.models()

    def unsound(self, *, look: bool = False) -> frozenset[str]:
        """Return the names of the models that are known to be broken, which only an engine without weights loads. With
        ``look`` new folders are looked into meanwhile.
        """
        reads = self.options.engine == AUTO or ENGINES[self.options.engine].computes
        return self.shelf.unsound(look=look) if reads else frozenset()

    def load(self, model: str, options: EngineOptions) -> None:
        """Start loading a model by name; follow it with ``engine.status()``.

        Raises:
            UsageError, WeightsError: no such model, or options that cannot work here; what was loaded stays loaded.
        """
        folder = folder_of(self.settings.models_dir, model, options)
        machine = self.prospects.machine()
        self.engine.load(folder, keyed(options, self.options))
        if not is_elsewhere(options.engine):
            self.prospects.fitting.expect(folder, options, machine)

    def attachable(self, model: str) -> tuple[Offer, ...]:
        """Return the adapters on this machine that can be attached to a model; the first look takes a second.

        Raises:
            UsageError: no model has that name.
        """
        return self.attachables.fitting(find_model(self.settings.models_dir, model))

    def check_lora(self, model: str, folder: str) -> None:
        """Make sure, as a load would, that an adapter can be attached to a model; reads headers and a few rows.

        Raises:
            UsageError, WeightsError: it cannot, or no model has that name.
        """
        lora = EngineOptions(loras=(Lora(folder),))
        weights_bytes(find_model(self.settings.models_dir, model), lora, ENGINES[ON_CPU])

    def models_at(self, url: str) -> tuple[str, ...]:
        """Return the names of the models that another server offers.

        Raises:
            UsageError: no address, or a key file that cannot be read.
            EngineError: the server does not answer as it should.
        """
        return models_at(url, self.options)

    def delete_model(self, model: str) -> None:
        """Delete a model folder, unless it is in use.

        Raises:
            UsageError: no such model, or it is in use.
        """
        self.shelf.delete(model)
