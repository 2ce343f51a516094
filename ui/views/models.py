"""The Models tab's layout: what is being checked, and the shelf. Binds no events; knows nothing about services.

Everything is drawn as HTML by ``ui.render.models``; its buttons report to one handler (``assets/js/cards.js``).
"""

from dataclasses import dataclass

import gradio as gr

FAST_S, SLOW_S = 0.7, 4.0
_CARD = "window.cria.card(element, trigger); window.cria.copies(element);"


@dataclass(frozen=True)
class ModelsView:
    """Everything that events read or change. ``seen`` holds what this browser was shown; nobody sees it."""

    said: gr.HTML
    checks: gr.HTML
    shelf: gr.HTML
    seen: gr.Textbox
    timer: gr.Timer


def build_models() -> ModelsView:
    """Lay the tab out inside the open ``gr.Tab``; return its parts."""
    with gr.Column(elem_id="models"):
        said = gr.HTML(elem_id="models-said")
        checks = gr.HTML(elem_id="models-checks", js_on_load=_CARD)
        shelf = gr.HTML(elem_id="models-shelf", js_on_load=_CARD)
        seen = gr.Textbox("", visible=False)
        timer = gr.Timer(SLOW_S, active=False)  # until somebody opens the tab
    return ModelsView(said, checks, shelf, seen, timer)
