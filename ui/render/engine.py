"""The engine as a card: where it stands, how far loading is, where it runs, how fast, what it holds, why it failed.

Everything is said from an ``EngineStatus``. Knows nothing about gradio or about how engines work.
"""

from backend.engines.base import EngineState, EngineStatus
from backend.engines.fitting import Forecast
from backend.errors import CriaError
from backend.text import say, tell
from backend.units import bytes_text
from ui.render.engine_news import engine_news
from ui.render.markup import bar, esc, facts, problem, remark

_MOVING = frozenset({EngineState.STARTING, EngineState.LOADING, EngineState.STOPPING})


def engine_card(status: EngineStatus, language: str, *, admin: bool, forecast: Forecast | None = None) -> str:
    """Return the engine's state as HTML. Its elements keep their places, so that the bar moves smoothly.

    ``forecast``: what it was foretold to hold. Why it failed is for an administrator: errors and logs name folders of
    this machine.
    """
    headline = say(language, f"chat.engine.{status.state}", model=status.model, seconds=status.seconds)
    return (
        f'<section class="engine {status.state}" data-state="{status.state}" data-model="{esc(status.model)}">'
        f'<p class="headline" role="status"><span class="dot"></span>{esc(headline)}</p>'
        f"{_progress(status, language)}{_figures(status, language, forecast)}{_trouble(status, language, admin)}"
        f"{engine_news(status, language, admin=admin)}</section>"
    )


def _progress(status: EngineStatus, language: str) -> str:
    """Return the bar while something is under way: bytes of weights where they are known."""
    if status.state not in _MOVING:
        return ""
    known = status.state is EngineState.LOADING and status.total_bytes > 0
    fraction = status.loaded_bytes / status.total_bytes if known else None
    said = [tell(language, status.note)] if status.note else []
    if known:
        said.append(say(language, "chat.engine.bytes", done=status.loaded_bytes, total=status.total_bytes))
    said.append(say(language, "chat.engine.elapsed", seconds=status.seconds))
    name = say(language, "chat.engine.progress")
    return f'{bar(name, fraction, kind="running")}<p class="figures">{esc(" · ".join(said))}</p>'


def _figures(status: EngineStatus, language: str, forecast: Forecast | None) -> str:
    """Return the live figures of a ready engine; what is unknown is left out rather than shown as zero."""
    if status.state is not EngineState.READY:
        return ""
    rows = {"placement": tell(language, status.placement) if status.placement else ""}
    if status.context:
        rows["context"] = say(language, "chat.engine.tokens", tokens=status.context)
    rows["speed"] = say(language, "chat.engine.rate", rate=status.tokens_per_s) if status.active else "–"
    rows["queue"] = say(language, "chat.engine.requests", active=status.active, waiting=status.waiting)
    if status.memory_bytes:
        rows["memory"] = bytes_text(status.memory_bytes)
    if status.gpu_memory_bytes:
        rows["gpu_memory"] = bytes_text(status.gpu_memory_bytes)
    if forecast is not None:
        name, held = ("gpu_memory", status.gpu_memory_bytes) if forecast.gpu else ("memory", status.memory_bytes)
        rows[name] = say(language, "fit.measured.beside", measured=held, predicted=forecast.predicted)
    return facts({say(language, f"chat.engine.label.{name}"): text for name, text in rows.items() if text})


def _trouble(status: EngineStatus, language: str, admin: bool) -> str:
    """Return why a load failed, with the engine's last words folded below, or a warning of a ready engine."""
    if status.state is EngineState.READY and status.note:
        return remark(tell(language, status.note), kind="warn")
    if status.state is not EngineState.FAILED:
        return ""
    if not admin:
        return problem(CriaError("ui.for_admins"), language)
    log = ""
    if status.log_tail:
        summary = esc(say(language, "chat.engine.log"))
        lines = esc("\n".join(status.log_tail))
        log = f'<details><summary>{summary}</summary><pre tabindex="0">{lines}</pre></details>'
    return f"{problem(status.error, language) if status.error else ''}{log}"
