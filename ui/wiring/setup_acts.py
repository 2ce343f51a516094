"""What the buttons inside the Setup tab's cards mean, as two tables: for everybody, and for administrators.

Knows nothing about who may press what, and nothing about how anything is drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.errors import CriaError
from backend.plan import TRY
from ui.wiring.setup_place import OF_JOB, Place, Press
from ui.wiring.setup_plan import Order, open_plan, recipe_of
from ui.wiring.setup_screen import Screen, Updates


@dataclass(frozen=True)
class Asked:
    """A button pressed in a place; ``form`` are the fields of the form for anything else, in its order."""

    screen: Screen
    press: Press
    place: Place
    form: Sequence[Any] = ()

    @property
    def name(self) -> str:
        """What the button is about."""
        return self.press.name

    def order(self, at: str | None = None) -> Order:
        """Return what is wanted in this place, or in another."""
        return Order.read(self.screen, self.place.recipe if at is None else at, self.press, self.form)


Act = Callable[[Asked], Updates]


def _stage(asked: Asked) -> Updates:
    stage = asked.name if asked.name in {"machine", "run"} else "choose"
    return asked.screen.go(Place(stage, job=asked.place.job))


def _check(asked: Asked) -> Updates:
    return asked.screen.look_again(asked.place)


def _show(asked: Asked) -> Updates:
    return _watch(asked.screen, asked.name)


def _watch(screen: Screen, job: str) -> Updates:
    """Bring a browser to a job as it is now."""
    screen.jobs = screen.services.jobs.views()
    return screen.go(Place("run", job=screen.services.jobs.view(job).id))


def _start(asked: Asked) -> Updates:
    """The one button: plan and start; what stands in the way is shown on the receipt."""
    screen, order = asked.screen, asked.order(asked.name)
    try:
        job = screen.services.set_up(order.plan(screen), choice=screen.choice)
    except CriaError as error:
        return open_plan(screen, order, error=error)
    return _watch(screen, job)


def _look(asked: Asked) -> Updates:
    return open_plan(asked.screen, asked.order(asked.name))


def _replan(asked: Asked) -> Updates:
    """Plan again with the places that were typed or chosen."""
    return open_plan(asked.screen, asked.order(), name=asked.press.text("name"), keep=asked.press.keep)


def _pause(asked: Asked) -> Updates:
    asked.screen.services.jobs.pause(asked.name)
    return _watch(asked.screen, asked.name)


def _cancel(asked: Asked) -> Updates:
    """Stop a job for good: what it made and what it fetched are removed."""
    screen = asked.screen
    screen.services.cancel(asked.name)
    screen.jobs = screen.services.jobs.views()
    return screen.go(screen.landing())


def _delete(asked: Asked) -> Updates:
    screen = asked.screen
    screen.services.jobs.delete(asked.name)
    screen.jobs = screen.services.jobs.views()
    return screen.go(screen.landing())


def _resume(asked: Asked, **wishes: Any) -> Updates:
    """Go on, with what a person wants otherwise."""
    screen = asked.screen
    screen.services.resume(asked.name, choice=screen.choice, **wishes)
    return _watch(screen, asked.name)


def _resume_free(asked: Asked) -> Updates:
    asked.screen.services.stock.delete_unused()
    return _resume(asked)


def _resume_named(asked: Asked) -> Updates:
    return _resume(asked, name=asked.press.text("name"))


def _mend(asked: Asked) -> Updates:
    """Show the plan of a job again, so that an ingredient can be taken from elsewhere."""
    screen = asked.screen
    at = screen.services.jobs.plan(asked.name).recipe
    if at not in {recipe.name for recipe in screen.services.recipes()}:
        at = OF_JOB + asked.name
    return open_plan(screen, asked.order(at))


def _anew(asked: Asked) -> Updates:
    """Start the same work again from the beginning; what is left of the job goes once that has begun."""
    screen, services = asked.screen, asked.screen.services
    old = services.jobs.plan(asked.name)
    tried = any(step.id == TRY for step in old.steps)
    fresh = services.plan(recipe_of(old, services.recipes()), name=old.name, self_test=tried, choice=screen.choice)
    fresh = replace(fresh, keep_sources=old.keep_sources)
    return _watch(screen, services.set_up(fresh, choice=screen.choice, instead_of=asked.name))


def _delete_download(asked: Asked) -> Updates:
    asked.screen.services.stock.delete(asked.name)
    return {asked.screen.view.stored: asked.screen.stored()}


def _delete_unused(asked: Asked) -> Updates:
    asked.screen.services.stock.delete_unused()
    return {asked.screen.view.stored: asked.screen.stored()}


LOOKING: Mapping[str, Act] = {"show": _show, "stage": _stage, "check": _check}
CHANGING: Mapping[str, Act] = {
    "start": _start,
    "look": _look,
    "replan": _replan,
    "pause": _pause,
    "cancel": _cancel,
    "delete": _delete,
    "resume": _resume,
    "resume-token": _resume,  # the token is part of how downloads go
    "resume-free": _resume_free,
    "resume-lean": lambda asked: _resume(asked, keep_sources=False),
    "resume-named": _resume_named,
    "resume-untried": lambda asked: _resume(asked, self_test=False),
    "mend": _mend,
    "anew": _anew,
    "delete-download": _delete_download,
    "delete-unused": _delete_unused,
}
