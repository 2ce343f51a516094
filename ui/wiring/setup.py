"""Every event of the Setup tab: which button does what. Knows nothing about how anything is drawn.

Whatever changes the machine asks ``require_admin`` first, in the handler: a hidden button protects nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr

from backend.engines.base import EngineOptions, EngineState
from backend.errors import CriaError
from backend.recipes import DTYPES, META, RULES
from backend.services import Services
from backend.text import say, tell
from ui.access import language, require_admin
from ui.render.downloads import servers_card
from ui.render.filters import filters_bar
from ui.render.markup import problem, remark
from ui.render.remedies import Fix, Means, fix_for
from ui.render.terms import glossary
from ui.shell import CHAT_TAB, Shell, open_tab
from ui.views.setup import OTHER_SERVER, SetupView
from ui.wiring.setup_acts import CHANGING, LOOKING, Asked
from ui.wiring.setup_gallery import Gallery
from ui.wiring.setup_place import Place, Press, read_choice
from ui.wiring.setup_plan import Order, begin, open_plan
from ui.wiring.setup_screen import Screen, Updates

_FRESH_S = 20.0  # pages opened one after the other share one look at the machine


def _choices(key: str, names: Iterable[tuple[str, str]], words: str) -> gr.Dropdown:
    return gr.Dropdown(choices=[(say(words, f"setup.form.{key}_auto"), ""), *names])


class SetupHandlers:
    """The tab's event handlers; ``outputs`` is the one list of components that any of them may change."""

    def __init__(self, view: SetupView, services: Services, shell: Shell) -> None:
        self.view, self.services, self.shell = view, services, shell
        self.gallery = Gallery(services)
        self.outputs = [
            *view.cards, view.choose, view.plan, view.run, view.at_stage, view.at_recipe, view.at_job, view.at_seen,
            view.timer, view.plan_problem, view.guest, view.filters, view.form.box, view.form.words,
            view.form.template, view.form.dtype, view.form.layout, view.form.rule, view.form.problem, view.access.box,
            view.access.server, view.history_box, view.stored_box, shell.tabs,
        ]  # fmt: skip

    def row(self, updates: Updates) -> tuple[Any, ...]:
        """Line updates up with ``outputs``; what is not mentioned stays as it is."""
        return tuple(updates.get(component, gr.skip()) for component in self.outputs)

    def screen(self, request: gr.Request) -> Screen:
        """Return the tab as one request sees it."""
        return Screen(self.view, self.services, request, self.gallery)

    def load(self, request: gr.Request, stage: str = "", recipe: str = "", job: str = "") -> tuple[Any, ...]:
        """Draw a fresh page; a browser that only changed its language comes back to its place."""
        self.gallery.hardware(oldest_s=_FRESH_S)
        screen = self.screen(request)
        words, door = screen.language, say(screen.language, "ui.admin.open")
        guest = remark(say(words, "setup.guest.say"), say(words, "setup.guest.hint", door=door))
        updates = {
            **self._place(screen, Place.given(stage, recipe, job)),
            self.view.guest: self._other(words) if screen.admin else guest,
            self.view.filters: filters_bar(self.services.recipes(), words),
            self.view.form.box: gr.Accordion(visible=screen.admin),
            self.view.access.box: gr.Accordion(visible=screen.admin),
            self.view.access.server: self._servers(words),
            **self._form(words),
        }
        return self.row(updates)

    def _place(self, screen: Screen, kept: Place | None) -> Updates:
        if kept is None:
            return screen.go(screen.landing())
        if kept.stage == "plan" and screen.admin and kept.recipe:
            try:
                return open_plan(screen, Order.read(screen, kept.recipe, Press("", ""), ()))
            except CriaError:
                return screen.go(screen.landing())
        return screen.go(Place("choose") if kept.stage == "plan" else kept)

    def _form(self, words: str) -> Updates:
        form = self.view.form
        rules = [(say(words, f"wizard.rule.{rule}"), rule) for rule in RULES[1:]]
        return {
            form.words: glossary(words, where="form"),
            form.template: _choices("template", ((name, name) for name in self.services.templates()), words),
            form.dtype: _choices("dtype", ((name, name) for name in DTYPES), words),
            form.layout: _choices("layout", [(say(words, "setup.form.layout_meta"), META)], words),
            form.rule: _choices("rule", rules, words),
        }

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

    def tick(self, request: gr.Request, stage: str, job: str, seen: str, recipe: str = "") -> tuple[Any, ...]:
        """Draw what changed since this browser looked last."""
        if not stage:  # the page is still being drawn for the first time
            return self.row({})
        return self.row(self.screen(request).changed(Place(stage, recipe, job), seen))

    def press(
        self, request: gr.Request, event: gr.EventData, stage: str, recipe: str, job: str, *rest: Any
    ) -> tuple[Any, ...]:
        """Do what a button inside a card says; ``rest`` are the form's fields, then those about downloads."""
        press, screen, count = Press.read(event), self.screen(request), len(self.view.form.fields)
        if press.act == "chat":
            return self.row(self._chat(request, press.name))
        asked = Asked(screen, press, Place(stage, recipe, job), rest[:count])
        if press.act in LOOKING:
            return self.row(LOOKING[press.act](asked))
        require_admin(request)
        screen.choice = read_choice(rest[count:], press.text("token"))
        if press.act == "begin":
            return self.row(self._begin(asked))
        return self.row(CHANGING[press.act](asked) if press.act in CHANGING else {})

    def _begin(self, asked: Asked) -> Updates:
        """Start the plan that is being looked at; what is wrong is said below it, where what was typed stays."""
        screen = asked.screen
        try:
            job = begin(screen, asked.order(), asked.press)
        except CriaError as error:
            return {self.view.plan_problem: problem(error, screen.language)}
        screen.jobs = self.services.jobs.views()
        return screen.go(Place("run", job=job))

    def _chat(self, request: gr.Request, model: str) -> Updates:
        """Go to the Chat tab; load the model as fits best here, unless it is there or on its way."""
        status = self.services.engine.status()
        there = {EngineState.STARTING, EngineState.LOADING, EngineState.READY}
        if status.model != model or status.state not in there:
            require_admin(request)
            flags = self.shell.options
            self.services.load(model, self.services.best_options(model) if flags == EngineOptions() else flags)
        return {self.shell.tabs: open_tab(CHAT_TAB)}

    def plan_form(self, request: gr.Request, *fields: Any) -> tuple[Any, ...]:
        """Show the plan for what the form says; what is wrong with it is shown under the form."""
        require_admin(request)
        screen, count = self.screen(request), len(self.view.form.fields)
        try:
            screen.choice = read_choice(fields[count:])
            order = Order.read(screen, "", Press("", ""), fields[:count])
            return self.row({**open_plan(screen, order), self.view.form.problem: ""})
        except CriaError as error:
            shown = {self.view.form.problem: problem(error, screen.language)}
            if fix_for(error, Means()) is Fix.TOKEN:  # where the token goes, unfolded
                shown[self.view.access.box] = gr.Accordion(open=True)
            return self.row(shown)

    def choose_server(self, _: gr.Request, server: str) -> gr.Textbox:
        """Ask for an address where another server is meant."""
        return gr.Textbox(visible=server == OTHER_SERVER)

    def test_servers(self, request: gr.Request, *access: Any) -> str:
        """Say which servers answer, and how fast."""
        require_admin(request)
        words = language(request)
        try:
            return servers_card(self.services.test_servers(read_choice(access)), words)
        except CriaError as error:
            return problem(error, words)


def _watch(view: SetupView) -> Sequence[Any]:
    return view.at_stage, view.at_job, view.at_seen, view.at_recipe


def bind_setup(view: SetupView, services: Services, shell: Shell) -> None:
    """Bind every event of the tab. Call it inside the open ``gr.Blocks``."""
    handlers, form, access = SetupHandlers(view, services, shell), view.form, view.access
    every, place = handlers.outputs, (view.at_stage, view.at_recipe, view.at_job)
    shell.on(None, handlers.load, place, every, js="() => window.cria.place()")
    shell.on(view.timer.tick, handlers.tick, _watch(view), every, quiet=True)
    form_fields = (*form.fields, *access.fields)
    pressed = [card.click for card in view.cards]
    shell.on(
        pressed, handlers.press, (*place, *form_fields), every, busy="[data-pressed]", then="window.cria.answered()"
    )
    shell.on([form.show.click, form.name.submit], handlers.plan_form, form_fields, every, busy="#form-show")
    shell.on(access.server.input, handlers.choose_server, (access.server,), (access.address,))
    shell.on(access.test.click, handlers.test_servers, access.fields, (access.answers,), busy="#access-test")
