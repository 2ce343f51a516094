"""What the gallery and the first station are drawn from: recipes with their estimates and fits, worked out once.

Nothing here asks the network. Estimates and fits are kept until somebody looks at the machine again, because a page
that polls must not work out a hundred of them twice a second. Knows nothing about how a card is drawn.
"""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from backend.errors import CriaError
from backend.hardware import Hardware
from backend.jobs.view import JobView
from backend.library import ModelInfo
from backend.plan import Plan
from backend.recipes import Recipe
from backend.services import Services
from ui.render.recipes import Offer


@dataclass
class Gallery:
    """The offers of one server, shared by everybody who looks."""

    services: Services
    _known: dict[str, Offer] = field(default_factory=dict)
    _hardware: Hardware | None = None
    _looked: float = 0.0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def hardware(self, *, oldest_s: float = math.inf) -> Hardware:
        """Return the machine as it was last looked at; if that is longer ago, look again and forget the fits."""
        with self._guard:
            now = time.monotonic()
            if self._hardware is None or now - self._looked > oldest_s:
                self._hardware, self._looked = self.services.hardware(), now
                self._known.clear()
            return self._hardware

    def offers(self, jobs: Sequence[JobView], shelf: Sequence[ModelInfo]) -> list[Offer]:
        """Return every recipe with what it comes to here, its model on the shelf and its set-up that runs."""
        making = {job.model: job.id for job in jobs if job.state.is_active}
        made = {model.recipe: model.name for model in reversed(shelf) if model.recipe}
        made |= {model.name: model.name for model in shelf}
        with self._guard:
            return [
                replace(known, model=made.get(known.recipe.name), job=making.get(known.recipe.name))
                for known in self._up_to_date()
            ]

    def _up_to_date(self) -> list[Offer]:
        recipes = self.services.recipes()
        if [one.recipe for one in self._known.values()] != list(recipes):
            self._known = {recipe.name: self._look(recipe) for recipe in recipes}
        return list(self._known.values())

    def _look(self, recipe: Recipe) -> Offer:
        plan: Plan | None = None
        try:
            plan = self.services.estimate(recipe)
        except CriaError as error:
            if not self.services.is_remote(recipe):
                return Offer(recipe, error=error)
        return Offer(recipe, plan, self.services.outlook(recipe))
