"""Every event of the Setup tab: which button does what. Knows nothing about how anything is drawn.

Whatever changes the machine asks ``require_admin`` first, in the handler: a hidden button protects nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from backend.engines.base import EngineState
from backend.errors import CriaError, UsageError
from backend.plan import Plan
from backend.recipes import DTYPES, LAYOUTS, check_name, custom_recipe
from backend.services import Services
from backend.text import say
from ui.access import require_admin
from ui.render.markup import problem, remark
from ui.shell import CHAT_TAB, Shell, open_tab
from ui.views.setup import SetupView
from ui.wiring.setup_screen import Place, Screen, Updates


def _plan_form(services: Services, *fields: str) -> Plan:
    """Turn what a person typed into a plan; the fields come in the form's order.

    Raises:
        UsageError, SourceError: something is missing or cannot be used.
    """
    base, delta, loras, name, template, dtype, layout = fields
    if not base.strip():
        raise UsageError("setup.form.no_base")
    if not name.strip():
        raise UsageError("setup.form.no_name")
    recipe = custom_recipe(
        name.strip(),
        base=base.strip(),
        delta=delta.strip() or None,
        loras=[line.strip() for line in loras.splitlines() if line.strip()],
        template=template or None,
        dtype=dtype or None,
        layout=layout or LAYOUTS[0],
    )
    return services.plan(recipe)


def _choices(key: str, names: Iterable[str], words: str) -> gr.Dropdown:
    return gr.Dropdown(choices=[(say(words, f"setup.form.{key}_auto"), ""), *((name, name) for name in names)])


Act = Callable[[Screen, str], Updates]


def _start(screen: Screen, recipe: str) -> Updates:
    """The one button: plan and start; what stands in the way is shown on the receipt."""
    plan = screen.services.plan(recipe)
    try:
        job = screen.services.set_up(plan)
    except CriaError as error:
        return screen.go_plan(plan, recipe, error)
    screen.jobs = screen.services.jobs.views()
    return screen.go(Place("run", job=job))


def _look(screen: Screen, recipe: str) -> Updates:
    return screen.go_plan(screen.services.plan(recipe), recipe)


def _show(screen: Screen, job: str) -> Updates:
    return screen.go(Place("run", job=screen.services.jobs.view(job).id))


def _cancel(screen: Screen, job: str) -> Updates:
    screen.services.jobs.cancel(job)
    return _show(screen, job)


def _resume(screen: Screen, job: str) -> Updates:
    screen.services.jobs.resume(job)
    screen.jobs = screen.services.jobs.views()
    return _show(screen, job)


def _delete(screen: Screen, job: str) -> Updates:
    screen.services.jobs.delete(job)
    screen.jobs = screen.services.jobs.views()
    return screen.go(screen.landing())


# What the buttons inside cards mean. The first table is for everybody, the second for administrators.
_LOOKING: Mapping[str, Act] = {"show": _show}
_CHANGING: Mapping[str, Act] = {
    "start": _start, "look": _look, "cancel": _cancel, "resume": _resume, "delete": _delete,
}  # fmt: skip


class SetupHandlers:
    """The tab's event handlers; ``outputs`` is the one list of components that any of them may change."""

    def __init__(self, view: SetupView, services: Services, shell: Shell) -> None:
        self.view, self.services, self.shell = view, services, shell
        self.outputs = [
            *view.cards, view.choose, view.plan, view.run, view.at_stage, view.at_recipe, view.at_job, view.at_seen,
            view.timer, view.receipt, view.name, view.plan_problem, view.guest, view.machine, view.form.box,
            view.form.template, view.form.dtype, view.form.layout, view.form.problem, shell.tabs,
        ]  # fmt: skip

    def row(self, updates: Updates) -> tuple[Any, ...]:
        """Line updates up with ``outputs``; what is not mentioned stays as it is."""
        return tuple(updates.get(component, gr.skip()) for component in self.outputs)

    def screen(self, request: gr.Request) -> Screen:
        return Screen(self.view, self.services, request)

    def load(self, request: gr.Request) -> tuple[Any, ...]:
        """Draw a fresh page."""
        screen = self.screen(request)
        words, door = screen.language, say(screen.language, "ui.admin.open")
        guest = remark(say(words, "setup.guest.say"), say(words, "setup.guest.hint", door=door))
        updates = {
            **screen.go(screen.landing()),
            self.view.machine: screen.machine(),
            self.view.guest: "" if screen.admin else guest,
            self.view.form.box: gr.Accordion(visible=screen.admin),
            self.view.form.template: _choices("template", self.services.templates(), words),
            self.view.form.dtype: _choices("dtype", DTYPES, words),
            self.view.form.layout: gr.Dropdown(
                choices=[(say(words, "setup.form.layout_auto"), ""), (say(words, "setup.form.layout_meta"), "meta")]
            ),
        }
        return self.row(updates)

    def check(self, request: gr.Request) -> str:
        """Look at the machine again."""
        return self.screen(request).machine()

    def tick(self, request: gr.Request, stage: str, job: str, seen: str) -> tuple[Any, ...]:
        """Draw what changed since this browser looked last."""
        if not stage:  # the page is still being drawn for the first time
            return self.row({})
        return self.row(self.screen(request).changed(Place(stage, job=job), seen))

    def press(self, request: gr.Request, event: gr.EventData, job: str) -> tuple[Any, ...]:
        """Do what a button inside a card says."""
        act, name = str(getattr(event, "act", "")), str(getattr(event, "name", ""))
        screen = self.screen(request)
        if act == "stage":
            return self.row(screen.go(Place("run" if name == "run" else "choose", job=job)))
        if act == "chat":
            return self.row(self._chat(request, name))
        if act in _LOOKING:
            return self.row(_LOOKING[act](screen, name))
        require_admin(request)
        return self.row(_CHANGING[act](screen, name) if act in _CHANGING else {})

    def _chat(self, request: gr.Request, model: str) -> Updates:
        """Go to the Chat tab; load the model unless it is there or on its way."""
        status = self.services.engine.status()
        there = {EngineState.STARTING, EngineState.LOADING, EngineState.READY}
        if status.model != model or status.state not in there:
            require_admin(request)
            self.services.load(model, self.shell.options)
        return {self.shell.tabs: open_tab(CHAT_TAB)}

    def plan_form(self, request: gr.Request, *fields: str) -> tuple[Any, ...]:
        """Show the plan for what the form says; what is wrong with it is shown under the form."""
        require_admin(request)
        screen = self.screen(request)
        try:
            plan = _plan_form(self.services, *fields)
        except CriaError as error:
            return self.row({self.view.form.problem: problem(error, screen.language)})
        return self.row({**screen.go_plan(plan, ""), self.view.form.problem: ""})

    def start(self, request: gr.Request, recipe: str, name: str, *fields: str) -> tuple[Any, ...]:
        """Start the plan that is being looked at, under the name in the box."""
        require_admin(request)
        screen = self.screen(request)
        try:
            plan = self.services.plan(recipe) if recipe else _plan_form(self.services, *fields)
            job = self.services.set_up(replace(plan, name=check_name(name.strip())))
        except CriaError as error:
            return self.row({self.view.plan_problem: problem(error, screen.language)})
        screen.jobs = self.services.jobs.views()
        return self.row(screen.go(Place("run", job=job)))

    def back(self, request: gr.Request) -> tuple[Any, ...]:
        """Leave the plan for the choice."""
        return self.row(self.screen(request).go(Place()))


def bind_setup(view: SetupView, services: Services, shell: Shell) -> None:
    """Bind every event of the tab. Call it inside the open ``gr.Blocks``."""
    handlers, form = SetupHandlers(view, services, shell), view.form
    every = handlers.outputs
    shell.on(None, handlers.load, (), every)
    shell.on(view.timer.tick, handlers.tick, (view.at_stage, view.at_job, view.at_seen), every, quiet=True)
    shell.on(view.check.click, handlers.check, (), (view.machine,))
    shell.on([card.click for card in view.cards], handlers.press, (view.at_job,), every)
    shell.on([form.show.click, form.name.submit], handlers.plan_form, form.fields, every)
    shell.on(view.back.click, handlers.back, (), every)
    shell.on([view.start.click, view.name.submit], handlers.start, (view.at_recipe, view.name, *form.fields), every)
