"""Notices: what went wrong and the way out, as an alert that stays until it is closed. Pure text; no gradio."""

import time

from backend.errors import CriaError
from backend.text import say, tell
from ui.render.markup import esc


def notice_html(problem: CriaError, language: str) -> str:
    """Return an alert for an error. The stamp makes a repeated error a new alert, also for screen readers."""
    hint = f"<p>{esc(tell(language, problem.hint))}</p>" if problem.hint else ""
    close = esc(say(language, "ui.close_notice"))
    return (
        f'<div class="notice" role="alert" data-stamp="{time.time_ns()}">'
        f"<div><strong>{esc(tell(language, problem.message))}</strong>{hint}</div>"
        f'<button type="button" aria-label="{close}" onclick="this.parentElement.remove()">&times;</button></div>'
    )
