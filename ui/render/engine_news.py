"""What has happened to the engine: that it was restarted and why, that it sleeps, that memory was short, and the
smaller way to load it.

Knows nothing about gradio or about how engines work.
"""

import time

from backend.engines.base import EngineState, EngineStatus
from backend.text import Message, say, tell
from ui.render.markup import button, remark

SMALLER = "smaller"  # what the button reports


def engine_news(status: EngineStatus, language: str, *, admin: bool) -> str:
    """Return remarks as HTML; empty while nothing has happened. The button is for an administrator."""
    news = ""
    if status.state is EngineState.ASLEEP and status.note:
        news += remark(tell(language, status.note))
    if status.restarted_after is not None:
        said = status.restarted_after.message
        why = tell(language, Message(said.key, {**said.params, "log": ""}) if admin else Message("ui.for_admins.say"))
        at = time.strftime("%H:%M", time.localtime(status.restarted_at))
        news += remark(say(language, "ops.restarted", time=at, why=why), kind="warn")
    if status.short:
        news += remark(say(language, "starved.short", count=status.short), kind="warn")
    return news + (_offer(status, language) if admin else "")


def _offer(status: EngineStatus, language: str) -> str:
    now, then = status.options, status.offer
    if then is None:
        return ""
    if then.bits != now.bits:
        text = say(language, "ops.offer.bits", bits=then.bits)
    elif then.context != now.context:
        text = say(language, "ops.offer.context", context=then.context)
    else:
        text = say(language, "ops.offer.gpus", count=len(then.gpus) or then.num_gpus)
    return button(text, SMALLER, status.model, primary=True)
