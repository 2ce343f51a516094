"""The engine as a card: where it stands, how far loading is, where it runs, how fast, what it holds, why it failed.

Everything is said from an ``EngineStatus``. Knows nothing about gradio or about how engines work.
"""

from backend.engines.base import EngineState, EngineStatus
from backend.engines.fitting import Forecast
from backend.engines.line import Live
from backend.engines.tally import Latest
from backend.errors import CriaError
from backend.text import say, tell
from backend.units import bytes_text
from ui.render.engine_news import engine_news
from ui.render.loras import scales_text
from ui.render.markup import bar, esc, facts, problem, remark

_MOVING = frozenset({EngineState.STARTING, EngineState.LOADING, EngineState.STOPPING})
_NO_LINE = Live()


def engine_card(
    status: EngineStatus, language: str, *, admin: bool, forecast: Forecast | None = None, line: Live = _NO_LINE
) -> str:
    """Return the engine's state as HTML. Its elements keep their places, so that the bar moves smoothly.

    ``forecast``: what it was foretold to hold; ``line``: how the queue in front of it stands. Why it failed is for an
    administrator: errors and logs name folders of this machine.
    """
    headline = say(language, f"chat.engine.{status.state}", model=status.model, seconds=status.seconds)
    return (
        f'<section class="engine {status.state}" data-state="{status.state}" data-model="{esc(status.model)}">'
        f'<p class="headline" role="status"><span class="dot"></span>{esc(headline)}</p>'
        f"{_progress(status, language)}{_figures(status, language, forecast, line)}{_trouble(status, language, admin)}"
        f"{engine_news(status, language, admin=admin)}{_log(status, language) if admin else ''}</section>"
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


def _figures(status: EngineStatus, language: str, forecast: Forecast | None, line: Live) -> str:
    """Return the live figures of a ready engine; what is unknown is left out rather than shown as zero."""
    if status.state is not EngineState.READY:
        return ""
    rows = {"placement": tell(language, status.placement) if status.placement else ""}
    rows["loras"] = scales_text([(lora.name, lora.scale) for lora in status.options.loras], language)
    if status.context:
        rows["context"] = say(language, "chat.engine.tokens", tokens=status.context)
    rows |= _paces(status, language, line)
    rows |= _memory(status, language, forecast)
    return facts({say(language, f"chat.engine.label.{name}"): text for name, text in rows.items() if text})


def _paces(status: EngineStatus, language: str, line: Live) -> dict[str, str]:
    """Return speed, wait and queue: as they are now, else as the last reply had them."""
    last = line.last if line.last.pid == status.pid else Latest()
    rate, first = last.tokens_per_s, last.first_token_s
    speed = say(language, "picker.too_short") if last.pid else "–"
    if rate:
        which = "engineui.last_speed" if last.replies == 1 else "picker.last_speeds"
        speed = say(language, which, rate=rate, count=last.replies)
    if status.active and status.tokens_per_s:
        speed = say(language, "chat.engine.rate", rate=status.tokens_per_s)
    return {
        "speed": speed,
        "first": say(language, "engineui.waited", seconds=first) if first >= 0.05 else "",  # else it would say 0.0
        "queue": say(language, "chat.engine.requests", active=status.active, waiting=status.waiting + line.waiting),
    }


def _memory(status: EngineStatus, language: str, forecast: Forecast | None) -> dict[str, str]:
    """Return RAM, VRAM and the cache of conversations; what was foretold stands beside."""
    rows = {"memory": "", "gpu_memory": "", "cache": ""}
    if status.memory_bytes:
        rows["memory"] = bytes_text(status.memory_bytes)
    if status.gpu_memory_bytes:
        rows["gpu_memory"] = bytes_text(status.gpu_memory_bytes)
    if forecast is not None:
        name, held = ("gpu_memory", status.gpu_memory_bytes) if forecast.gpu else ("memory", status.memory_bytes)
        rows[name] = say(language, "fit.measured.beside", measured=held, predicted=forecast.predicted)
    if len(status.gpu_memory_each) > 1:
        each = [say(language, "engineui.gpu", index=index, bytes=held) for index, held in status.gpu_memory_each]
        rows["gpu_memory"] += f" ({say(language, 'setup.list_comma').join(each)})"
    if status.cache_total:
        # Room for several conversations at once is more than the context of one.
        is_shared = status.slots > 1 and status.cache_total == status.slots * status.context
        room = {"slots": status.slots, "context": status.context} if is_shared else {"total": status.cache_total}
        rows["cache"] = say(language, f"engineui.cache{'_each' if is_shared else ''}", used=status.cache_used, **room)
    return rows


def _trouble(status: EngineStatus, language: str, admin: bool) -> str:
    """Return why a load failed, or a warning of a ready engine."""
    if status.state is EngineState.READY and status.note:
        return remark(tell(language, status.note), kind="warn")
    if status.state is not EngineState.FAILED:
        return ""
    if not admin:
        return problem(CriaError("ui.for_admins"), language)
    return problem(status.error, language) if status.error else ""


def _log(status: EngineStatus, language: str) -> str:
    """Return the last words of an engine that failed, folded."""
    if status.state is not EngineState.FAILED or not status.log_tail:
        return ""
    summary = esc(say(language, "chat.engine.log"))
    lines = esc("\n".join(status.log_tail))
    return f'<details><summary>{summary}</summary><pre tabindex="0">{lines}</pre></details>'
