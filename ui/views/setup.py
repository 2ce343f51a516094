"""The Setup tab's layout: path, machine, one of choose, plan and run, and the list of all set-ups. Binds no events.

What changes is drawn as HTML by ``ui.render``; buttons inside it report what they mean (``data-do``, ``data-name``),
with the fields of the form around them, to one click handler. Knows nothing about services or what the buttons do.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from backend.text import has
from ui.i18n import label

FAST_S, SLOW_S = 0.5, 3.0
OTHER_SERVER = "other"  # what the list of servers says when an address is typed instead

_CARD, _FILTERS = "window.cria.card(element, trigger);", "window.cria.filters(element);"  # assets/js/cards.js


@dataclass(frozen=True)
class FormView:
    """The form for anything that is not a recipe."""

    box: gr.Accordion
    base: gr.Textbox
    delta: gr.Textbox
    loras: gr.Textbox
    name: gr.Textbox
    template: gr.Dropdown
    dtype: gr.Dropdown
    layout: gr.Dropdown
    rule: gr.Dropdown
    words: gr.HTML
    show: gr.Button
    problem: gr.HTML

    @property
    def fields(self) -> list[gr.Textbox | gr.Dropdown]:
        """What a person fills in, in the order handlers take it."""
        return [self.base, self.delta, self.loras, self.name, self.template, self.dtype, self.layout,
                self.rule]  # fmt: skip


@dataclass(frozen=True)
class AccessView:
    """Where downloads come from. What is typed here travels with the events that use it and is kept nowhere."""

    box: gr.Accordion
    server: gr.Dropdown
    address: gr.Textbox
    token: gr.Textbox
    rate: gr.Number
    test: gr.Button
    answers: gr.HTML

    @property
    def fields(self) -> list[Any]:
        """What a person fills in, in the order handlers take it."""
        return [self.server, self.address, self.token, self.rate]


@dataclass(frozen=True)
class SetupView:
    """Everything that events read or change. ``at_*`` hold where this browser stands; nobody sees them."""

    guest: gr.HTML
    path: gr.HTML
    banner: gr.HTML
    machine: gr.HTML
    choose: gr.Column
    filters: gr.HTML
    gallery: gr.HTML
    form: FormView
    plan: gr.Column
    receipt: gr.HTML
    plan_problem: gr.HTML
    run: gr.Column
    job: gr.HTML
    access: AccessView
    history_box: gr.Accordion
    history: gr.HTML
    stored_box: gr.Accordion
    stored: gr.HTML
    at_stage: gr.Textbox
    at_recipe: gr.Textbox
    at_job: gr.Textbox
    at_seen: gr.Textbox
    timer: gr.Timer

    @property
    def cards(self) -> list[gr.HTML]:
        """The cards with buttons of their own."""
        return [
            self.path, self.banner, self.machine, self.gallery, self.receipt, self.job, self.history, self.stored,
        ]  # fmt: skip


def _card(name: str) -> gr.HTML:
    return gr.HTML(elem_id=name, js_on_load=_CARD)


def _field(key: str, name: str, *, lines: int = 1) -> gr.Textbox:
    return gr.Textbox(
        label=label(f"setup.form.{key}"),
        info=label(f"setup.form.{key}_info"),
        elem_id=name,
        placeholder=label(example) if has(example := f"setup.form.{key}_example") else None,
        lines=lines,
        max_lines=6,
        min_width=260,
    )


def _choice(key: str, name: str) -> gr.Dropdown:
    """Return a list to pick from whose first entry leaves the matter to Cria; the page's load fills in the rest."""
    return gr.Dropdown(
        [(label(f"setup.form.{key}_auto"), "")],
        value="",
        label=label(f"setup.form.{key}"),
        info=label(f"setup.form.{key}_info"),
        elem_id=name,
        min_width=260,
    )


def _form() -> FormView:
    with gr.Accordion(label("setup.form.title"), open=False, elem_id="own-folders") as box:
        gr.Markdown(label("setup.form.intro"))
        words = gr.HTML(elem_id="form-words")
        base, delta = _field("base", "form-base"), _field("delta", "form-delta")
        loras = _field("loras", "form-loras", lines=2)
        with gr.Row():
            name = _field("name", "form-name")
            template = _choice("template", "form-template")
        with gr.Row():
            dtype, layout = _choice("dtype", "form-dtype"), _choice("layout", "form-layout")
            rule = _choice("rule", "form-rule")
        problem = gr.HTML(elem_id="form-problem")
        show = gr.Button(label("setup.form.show_plan"), elem_id="form-show")
    return FormView(box, base, delta, loras, name, template, dtype, layout, rule, words, show, problem)


def _access() -> AccessView:
    """Lay out the servers. The page's load fills in who is asked by default."""
    with gr.Accordion(label("fetchui.title"), open=False, elem_id="access", visible=False) as box:
        gr.Markdown(label("fetchui.intro"))
        with gr.Row():
            server = gr.Dropdown(
                [(label("fetchui.server_auto"), "")],
                value="",
                label=label("fetchui.server"),
                info=label("fetchui.server_info"),
                elem_id="access-server",
                min_width=260,
            )
            token = gr.Textbox(
                "",
                label=label("fetchui.token"),
                info=label("fetchui.token_info"),
                type="password",
                placeholder="hf_...",
                elem_id="access-token",
                min_width=260,
                html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
            )
        with gr.Row():
            address = gr.Textbox(
                "",
                label=label("fetchui.address"),
                info=label("fetchui.address_info"),
                elem_id="access-address",
                visible=False,
                min_width=260,
            )
            rate = gr.Number(
                label=label("fetchui.rate"),
                info=label("fetchui.rate_info"),
                minimum=0,
                elem_id="access-rate",
                min_width=160,
            )
        test = gr.Button(label("fetchui.test"), elem_id="access-test")
        answers = gr.HTML(elem_id="access-answers")
    return AccessView(box, server, address, token, rate, test, answers)


def build_setup() -> SetupView:
    """Lay the tab out inside the open ``gr.Tab``; return its parts."""
    with gr.Column(elem_id="setup"):
        guest = gr.HTML(elem_id="guest")
        path, banner, machine = _card("path"), _card("banner"), _card("machine")
        with gr.Column(elem_id="stage-choose", visible=False) as choose:
            filters = gr.HTML(elem_id="filters", js_on_load=_FILTERS)
            gallery = _card("gallery")
            form = _form()
        with gr.Column(elem_id="stage-plan", visible=False) as plan:
            receipt = _card("receipt")
            plan_problem = gr.HTML(elem_id="plan-problem")
        with gr.Column(elem_id="stage-run", visible=False) as run:
            job = _card("job")
        access = _access()
        with gr.Accordion(label("setup.job.all"), open=False, elem_id="history-box", visible=False) as history_box:
            history = _card("history")
        with gr.Accordion(label("fetchui.list"), open=False, elem_id="stored-box", visible=False) as stored_box:
            stored = _card("stored")
        at_stage, at_recipe, at_job, at_seen = (gr.Textbox("", visible=False) for _ in range(4))
        timer = gr.Timer(FAST_S)
    return SetupView(
        guest, path, banner, machine, choose, filters, gallery, form, plan, receipt, plan_problem, run, job, access,
        history_box, history, stored_box, stored, at_stage, at_recipe, at_job, at_seen, timer,
    )  # fmt: skip
