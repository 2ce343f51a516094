"""The whole page, top to bottom: header, notice, tabs. Views lay each tab out, wiring brings it to life.

Knows nothing about what is in a tab.
"""

import gradio as gr

from backend.engines.base import EngineState
from backend.services import Services
from ui.access import is_admin, language
from ui.i18n import label
from ui.locale import FIRST_TAB, TITLE
from ui.render.header import header_html
from ui.shell import CHAT_TAB, MODELS_TAB, SETUP_TAB, Shell
from ui.views.chat import build_chat
from ui.views.models import build_models
from ui.views.setup import build_setup
from ui.wiring.chat import bind_chat
from ui.wiring.models import bind_models
from ui.wiring.setup import SetupHandlers, bind_setup

_IN_USE = frozenset({EngineState.STARTING, EngineState.LOADING, EngineState.READY})


def build_ui(services: Services) -> gr.Blocks:
    """Build the page."""
    demo = gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True)
    with demo:
        header = gr.HTML(header_html("en", shared=False, admin=False), elem_id="header")
        notice = gr.HTML(elem_id="notice")
        with gr.Tabs(selected=FIRST_TAB, elem_id="tabs") as tabs:
            with gr.Tab(label("ui.setup"), id=SETUP_TAB, elem_id="setup-tab"):
                setup = build_setup()
            with gr.Tab(label("ui.chat"), id=CHAT_TAB, elem_id="chat-tab") as chat_tab:
                chat = build_chat(services.options)
            with gr.Tab(label("ui.models"), id=MODELS_TAB, elem_id="models-tab") as models_tab:
                models = build_models()
        shell = Shell(tabs=tabs, chat_tab=chat_tab, notice=notice, options=services.options)
        _bind_page(header, services, shell)
        bind_setup(setup, services, shell)
        bind_chat(chat, services, shell)
        bind_models(models, models_tab, services, shell, SetupHandlers(setup, services, shell))
    return demo


def first_tab(services: Services) -> str:
    """Return the tab that a fresh page opens with: the chat when there is somebody to talk to, else the set-up.

    Somebody who comes back in mid-job wants to see the job, whatever is loaded meanwhile.
    """
    busy = any(job.state.is_active for job in services.jobs.views())
    return CHAT_TAB if services.engine.status().state in _IN_USE and not busy else SETUP_TAB


def _bind_page(header: gr.HTML, services: Services, shell: Shell) -> None:
    """A fresh page shows its header in the visitor's language."""

    def load(request: gr.Request) -> str:
        shared = bool(services.settings.admin_token)
        return header_html(language(request), shared=shared, admin=is_admin(request))

    shell.on(None, load, (), (header,), js="() => { window.cria.applyTheme(); return []; }")
