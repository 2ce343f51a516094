"""The one value that ``app.py`` builds and hands to page, gateway and terminal: everything they may ask for.

Knows nothing about gradio, HTTP or argument parsing.
"""

from dataclasses import dataclass
from pathlib import Path

from backend import hardware, library, plan, recipes
from backend.conversations import Conversations
from backend.engines.base import EngineControl, EngineOptions
from backend.jobs.manager import JobManager
from backend.settings import ASSETS, Settings


@dataclass(frozen=True)
class Services:
    """Frozen bundle of what the edges use; its methods join two parts where neither should know the other."""

    settings: Settings
    jobs: JobManager
    engine: EngineControl
    conversations: Conversations

    def hardware(self) -> hardware.Hardware:
        """Look at the machine now."""
        return hardware.probe(self.settings.models_dir)

    def recipes(self) -> tuple[recipes.Recipe, ...]:
        """Return built-in and own recipes, recommended first."""
        return recipes.read_recipes((ASSETS / "recipes", self.settings.recipes_dir))

    def plan(self, recipe_name: str) -> plan.Plan:
        """Return the plan of a recipe by name.

        Raises:
            UsageError: no such recipe.
            SourceError: its sources are not there.
        """
        return plan.make_plan(recipes.find_recipe(self.recipes(), recipe_name))

    def set_up(self, wanted: plan.Plan) -> str:
        """Check a plan against the machine as it is now and start it as a job; return the job's id.

        Raises:
            UsageError, MachineError, JobError: it cannot be started; nothing was changed.
        """
        plan.check_plan(wanted, self.hardware(), self.settings.models_dir)
        return self.jobs.start(wanted)

    def models(self) -> tuple[library.ModelInfo, ...]:
        """Return the shelf, newest first."""
        return library.read_models(self.settings.models_dir)

    def load(self, model: str, options: EngineOptions) -> None:
        """Start loading a model by name; follow it with ``engine.status()``.

        Raises:
            UsageError, WeightsError: no such model, or options that cannot work here; what was loaded stays loaded.
        """
        self.engine.load(library.find_model(self.settings.models_dir, model), options)

    def delete_model(self, model: str) -> None:
        """Delete a model folder, unless it is loaded.

        Raises:
            UsageError: no such model, or it is in use.
        """
        folder: Path = library.find_model(self.settings.models_dir, model)
        library.delete_model(folder, in_use=self.engine.status().model == model)
