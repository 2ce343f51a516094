"""The one value that ``app.py`` builds and hands to page, gateway and terminal: everything they may ask for.

Knows nothing about gradio, HTTP or argument parsing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from backend.conversations import Conversations
from backend.engines.base import EngineControl, EngineOptions, EngineState
from backend.hardware import Hardware, probe
from backend.jobs.examination import Findings, examine
from backend.jobs.manager import JobManager
from backend.jobs.presence import Presence
from backend.jobs.stock import Coming, Stored, coming, delete_stored, stock
from backend.library import ModelInfo, delete_model, find_folder, find_model, read_models
from backend.plan import Plan, check_plan, make_plan
from backend.recipes import Recipe, find_recipe, read_recipes
from backend.settings import ASSETS, Settings
from backend.sources.access import Access
from backend.sources.pinned import find_source, is_remote
from backend.sources.remote import probe as probe_servers
from backend.text import Message
from backend.weights.templates import NAMES


@dataclass(frozen=True)
class DownloadChoice:
    """What a person chose for the downloads of one set-up: the only ``server`` to ask (empty: the usual ones), a token
    for it, and the most bytes a second.
    """

    server: str = ""
    token: str = field(default="", repr=False)
    rate: float | None = None


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
        return read_recipes((ASSETS / "recipes", self.settings.recipes_dir))

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
    ) -> Plan:
        """Return the plan of a recipe, given or by its name. A source that is not on this machine is looked up.

        ``choice``: None for the servers and tokens of the command line, also below.

        Raises:
            UsageError: no such recipe, or a choice that cannot be used.
            SourceError: its sources are not there.
        """
        wanted = find_recipe(self.recipes(), recipe) if isinstance(recipe, str) else recipe
        find = partial(find_source, access=self._access(choice))
        return make_plan(wanted, name=name, self_test=self_test, find=find, downloads=self.settings.downloads_dir)

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

    def set_up(self, wanted: Plan, *, choice: DownloadChoice | None = None) -> str:
        """Check a plan against its sources and the machine as they are now, start it as a job; return the job's id.

        Raises:
            CriaError: it cannot be started; nothing was changed.
        """
        exact, _ = self.examine(wanted)
        check_plan(exact, self.hardware(), self.settings.models_dir)
        return self.jobs.start(exact, environment=self._environment(choice))

    def resume(self, job: str, *, choice: DownloadChoice | None = None) -> None:
        """Let a job go on; None for the choice it was started with.

        Raises:
            JobError: there is none of that id, it is running, or it is done.
            UsageError: a choice that cannot be used.
        """
        self.jobs.resume(job, environment=self._environment(choice))

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

    def coming(self, plan: Plan) -> tuple[Coming, ...]:
        """Return what a plan fetches."""
        return coming(plan, self.settings.downloads_dir)

    def stored(self, job: str) -> int:
        """Return the bytes of a job's downloads that are on this machine.

        Raises:
            JobError: there is none of that id.
        """
        return sum(one.there for one in self.coming(self.jobs.plan(job)))

    def downloads(self) -> tuple[Stored, ...]:
        """Return what was fetched and is still here."""
        return stock(self.settings.downloads_dir, self.jobs)

    def delete_download(self, name: str) -> int:
        """Remove a download; return the bytes freed.

        Raises:
            SourceError: there is none of that name, or a set-up that runs needs it.
        """
        return delete_stored(self.settings.downloads_dir, self.jobs, name)

    def delete_unused(self) -> int:
        """Remove every download that no set-up needs; return the bytes freed."""
        unused = [one for one in self.downloads() if one.is_unused]
        return sum(self.delete_download(one.name) for one in unused)

    def templates(self) -> tuple[str, ...]:
        """Return the names of the prompt templates that a set-up may be told to use."""
        return NAMES

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the shelf, newest first."""
        return read_models(self.settings.models_dir)

    def load(self, model: str, options: EngineOptions) -> None:
        """Start loading a model by name; follow it with ``engine.status()``.

        Raises:
            UsageError, WeightsError: no such model, or options that cannot work here; what was loaded stays loaded.
        """
        self.engine.load(find_model(self.settings.models_dir, model), options)

    def delete_model(self, model: str) -> None:
        """Delete a model folder, unless it is loaded.

        Raises:
            UsageError: no such model, or it is in use.
        """
        status = self.engine.status()
        in_use = status.model == model and status.state not in {EngineState.OFF, EngineState.FAILED}
        delete_model(find_folder(self.settings.models_dir, model), in_use=in_use)
