"""Every event of the Setup tab: which button does what. Knows nothing about how anything is drawn.

Whatever changes the machine asks ``require_admin`` first, in the handler: a hidden button protects nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from backend.engines.base import EngineState
from backend.errors import CriaError, UsageError
from backend.plan import MB, Plan
from backend.recipes import DTYPES, LAYOUTS, META, check_name, custom_recipe
from backend.services import DownloadChoice, Services
from backend.text import say, tell
from ui.access import language, require_admin
from ui.render.downloads import servers_card
from ui.render.markup import problem, remark
from ui.shell import CHAT_TAB, Shell, open_tab
from ui.views.setup import OTHER_SERVER, SetupView
from ui.wiring.setup_screen import Place, Screen, Updates


def _read_choice(
    server: str = "", address: str = "", token: str = "", rate: float | None = None
) -> DownloadChoice | None:
    """Return what the fields about downloads say; None when they were left alone.

    Raises:
        UsageError: another address was chosen and not given.
    """
    if server == OTHER_SERVER and not address.strip():
        raise UsageError("fetchui.no_address")
    chosen = DownloadChoice(address if server == OTHER_SERVER else server, token, rate * MB if rate else None)
    return None if chosen == DownloadChoice() else chosen


def _plan_form(screen: Screen, *fields: str) -> Plan:
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
    return screen.services.plan(recipe, choice=screen.choice)


def _choices(key: str, names: Iterable[str], words: str) -> gr.Dropdown:
    return gr.Dropdown(choices=[(say(words, f"setup.form.{key}_auto"), ""), *((name, name) for name in names)])


Act = Callable[[Screen, str], Updates]


def _start(screen: Screen, recipe: str) -> Updates:
    """The one button: plan and start; what stands in the way is shown on the receipt."""
    plan = screen.services.plan(recipe, choice=screen.choice)
    try:
        job = screen.services.set_up(plan, choice=screen.choice)
    except CriaError as error:
        return screen.go_plan(plan, recipe, error)
    screen.jobs = screen.services.jobs.views()
    return screen.go(Place("run", job=job))


def _look(screen: Screen, recipe: str) -> Updates:
    return screen.go_plan(screen.services.plan(recipe, choice=screen.choice), recipe)


def _show(screen: Screen, job: str) -> Updates:
    return screen.go(Place("run", job=screen.services.jobs.view(job).id))


def _cancel(screen: Screen, job: str) -> Updates:
    screen.services.jobs.cancel(job)
    return _show(screen, job)


def _resume(screen: Screen, job: str) -> Updates:
    screen.services.resume(job, choice=screen.choice)
    screen.jobs = screen.services.jobs.views()
    return _show(screen, job)


def _delete(screen: Screen, job: str) -> Updates:
    screen.services.jobs.delete(job)
    screen.jobs = screen.services.jobs.views()
    return screen.go(screen.landing())


def _delete_download(screen: Screen, name: str) -> Updates:
    screen.services.delete_download(name)
    return {screen.view.stored: screen.stored()}


def _delete_unused(screen: Screen, _: str) -> Updates:
    screen.services.delete_unused()
    return {screen.view.stored: screen.stored()}


# What the buttons inside cards mean. The first table is for everybody, the second for administrators.
_LOOKING: Mapping[str, Act] = {"show": _show}
_CHANGING: Mapping[str, Act] = {
    "start": _start, "look": _look, "cancel": _cancel, "resume": _resume, "delete": _delete,
    "delete-download": _delete_download, "delete-unused": _delete_unused,
}  # fmt: skip


class SetupHandlers:
    """The tab's event handlers; ``outputs`` is the one list of components that any of them may change."""

    def __init__(self, view: SetupView, services: Services, shell: Shell) -> None:
        self.view, self.services, self.shell = view, services, shell
        self.outputs = [
            *view.cards, view.choose, view.plan, view.run, view.at_stage, view.at_recipe, view.at_job, view.at_seen,
            view.timer, view.receipt, view.name, view.plan_problem, view.guest, view.machine, view.form.box,
            view.form.template, view.form.dtype, view.form.layout, view.form.problem, view.access.box,
            view.access.server, view.stored_box, shell.tabs,
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
            self.view.guest: self._other(words) if screen.admin else guest,
            self.view.form.box: gr.Accordion(visible=screen.admin),
            self.view.access.box: gr.Accordion(visible=screen.admin),
            self.view.access.server: self._servers(words),
            self.view.stored_box: gr.Accordion(visible=screen.admin),
            self.view.form.template: _choices("template", self.services.templates(), words),
            self.view.form.dtype: _choices("dtype", DTYPES, words),
            self.view.form.layout: gr.Dropdown(
                choices=[(say(words, "setup.form.layout_auto"), ""), (say(words, "setup.form.layout_meta"), META)]
            ),
        }
        return self.row(updates)

    def _other(self, words: str) -> str:
        other = self.services.other_server()
        return remark(tell(words, other)) if other else ""

    def _servers(self, words: str) -> gr.Dropdown:
        usual = say(words, "setup.list_comma").join(self.services.hosts())
        named = [(host, url) for url, host in self.services.known_servers().items()]
        return gr.Dropdown(
            choices=[
                (say(words, "fetchui.server_auto_of", hosts=usual), ""),
                *named,
                (say(words, "fetchui.server_other"), OTHER_SERVER),
            ]
        )

    def check(self, request: gr.Request) -> str:
        """Look at the machine again."""
        return self.screen(request).machine()

    def tick(self, request: gr.Request, stage: str, job: str, seen: str) -> tuple[Any, ...]:
        """Draw what changed since this browser looked last."""
        if not stage:  # the page is still being drawn for the first time
            return self.row({})
        return self.row(self.screen(request).changed(Place(stage, job=job), seen))

    def press(self, request: gr.Request, event: gr.EventData, job: str, *access: Any) -> tuple[Any, ...]:
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
        screen.choice = _read_choice(*access)
        return self.row(_CHANGING[act](screen, name) if act in _CHANGING else {})

    def _chat(self, request: gr.Request, model: str) -> Updates:
        """Go to the Chat tab; load the model unless it is there or on its way."""
        status = self.services.engine.status()
        there = {EngineState.STARTING, EngineState.LOADING, EngineState.READY}
        if status.model != model or status.state not in there:
            require_admin(request)
            self.services.load(model, self.shell.options)
        return {self.shell.tabs: open_tab(CHAT_TAB)}

    def plan_form(self, request: gr.Request, *fields: Any) -> tuple[Any, ...]:
        """Show the plan for what the form says; what is wrong with it is shown under the form."""
        require_admin(request)
        screen = self.screen(request)
        try:
            plan = self._form_plan(screen, fields)
        except CriaError as error:
            return self.row({self.view.form.problem: problem(error, screen.language)})
        return self.row({**screen.go_plan(plan, ""), self.view.form.problem: ""})

    def _form_plan(self, screen: Screen, fields: Sequence[Any], recipe: str = "") -> Plan:
        """Return the plan of a recipe or of the form; ``fields`` are the form's, then those about downloads."""
        count = len(self.view.form.fields)
        screen.choice = _read_choice(*fields[count:])
        return screen.services.plan(recipe, choice=screen.choice) if recipe else _plan_form(screen, *fields[:count])

    def start(self, request: gr.Request, recipe: str, name: str, *fields: Any) -> tuple[Any, ...]:
        """Start the plan that is being looked at, under the name in the box."""
        require_admin(request)
        screen = self.screen(request)
        try:
            made = self._form_plan(screen, fields, recipe)
            job = self.services.set_up(replace(made, name=check_name(name.strip())), choice=screen.choice)
        except CriaError as error:
            return self.row({self.view.plan_problem: problem(error, screen.language)})
        screen.jobs = self.services.jobs.views()
        return self.row(screen.go(Place("run", job=job)))

    def choose_server(self, _: gr.Request, server: str) -> gr.Textbox:
        """Ask for an address where another server is meant."""
        return gr.Textbox(visible=server == OTHER_SERVER)

    def test_servers(self, request: gr.Request, *access: Any) -> str:
        """Say which servers answer, and how fast."""
        require_admin(request)
        words = language(request)
        try:
            return servers_card(self.services.test_servers(_read_choice(*access)), words)
        except CriaError as error:
            return problem(error, words)

    def back(self, request: gr.Request) -> tuple[Any, ...]:
        """Leave the plan for the choice."""
        return self.row(self.screen(request).go(Place()))


def bind_setup(view: SetupView, services: Services, shell: Shell) -> None:
    """Bind every event of the tab. Call it inside the open ``gr.Blocks``."""
    handlers, form, access = SetupHandlers(view, services, shell), view.form, view.access
    every = handlers.outputs
    shell.on(None, handlers.load, (), every)
    shell.on(view.timer.tick, handlers.tick, (view.at_stage, view.at_job, view.at_seen), every, quiet=True)
    shell.on(view.check.click, handlers.check, (), (view.machine,))
    shell.on([card.click for card in view.cards], handlers.press, (view.at_job, *access.fields), every)
    form_fields = (*form.fields, *access.fields)
    shell.on([form.show.click, form.name.submit], handlers.plan_form, form_fields, every, busy="#form-show")
    shell.on(view.back.click, handlers.back, (), every)
    started = (view.at_recipe, view.name, *form_fields)
    shell.on([view.start.click, view.name.submit], handlers.start, started, every, busy="#plan-start")
    shell.on(access.server.input, handlers.choose_server, (access.server,), (access.address,))
    shell.on(access.test.click, handlers.test_servers, access.fields, (access.answers,), busy="#access-test")
