"""The one value that ``app.py`` builds and hands to page, gateway and terminal: everything they may ask for.

Knows nothing about gradio, HTTP or argument parsing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from backend.conversations import Conversations
from backend.engines.base import EngineControl, EngineOptions, EngineState
from backend.hardware import Hardware, probe
from backend.jobs.examination import Findings, examine
from backend.jobs.manager import JobManager
from backend.library import ModelInfo, delete_model, find_folder, find_model, read_models
from backend.plan import Plan, check_plan, make_plan
from backend.recipes import Recipe, find_recipe, read_recipes
from backend.settings import ASSETS, Settings
from backend.sources.access import Access
from backend.sources.pinned import find_source
from backend.weights.templates import NAMES


@dataclass(frozen=True)
class Services:
    """Frozen bundle of what the edges use; its methods join two parts where neither should know the other.

    ``options`` are the engine options of the command line, the page's defaults; ``access`` says which servers are asked
    for weights; ``examiner`` looks at a plan's sources.
    """

    settings: Settings
    jobs: JobManager
    engine: EngineControl
    conversations: Conversations
    options: EngineOptions = field(default_factory=EngineOptions)
    access: Access = field(default_factory=Access)
    examiner: Callable[[Plan, Path], Findings | None] = examine

    def hardware(self) -> Hardware:
        """Look at the machine now."""
        return probe(self.settings.models_dir)

    def recipes(self) -> tuple[Recipe, ...]:
        """Return built-in and own recipes, recommended first."""
        return read_recipes((ASSETS / "recipes", self.settings.recipes_dir))

    def plan(self, recipe: Recipe | str, *, name: str | None = None, self_test: bool = True) -> Plan:
        """Return the plan of a recipe, given or by its name. A source that is not on this machine is looked up.

        Raises:
            UsageError: no such recipe.
            SourceError: its sources are not there.
        """
        wanted = find_recipe(self.recipes(), recipe) if isinstance(recipe, str) else recipe
        find = partial(find_source, access=self.access)
        return make_plan(wanted, name=name, self_test=self_test, find=find, downloads=self.settings.downloads_dir)

    def examine(self, wanted: Plan) -> tuple[Plan, Findings | None]:
        """Look at a plan's sources; return the plan with exact sizes, and what was found if that could be told now.

        Raises:
            CriaError: the sources cannot be put together; nothing was changed.
        """
        found = self.examiner(wanted, self.settings.downloads_dir)
        return (wanted.with_output(found.bytes) if found else wanted), found

    def set_up(self, wanted: Plan) -> str:
        """Check a plan against its sources and the machine as they are now, start it as a job; return the job's id.

        Raises:
            CriaError: it cannot be started; nothing was changed.
        """
        exact, _ = self.examine(wanted)
        check_plan(exact, self.hardware(), self.settings.models_dir)
        return self.jobs.start(exact)

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
