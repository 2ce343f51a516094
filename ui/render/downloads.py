"""Downloads as cards: which servers answer, and what lies on the disk. Knows nothing about gradio.

Names of repositories and servers come from people and from hubs; all of them are escaped.
"""

from collections.abc import Mapping, Sequence

from backend.jobs.stock import Stored
from backend.text import say
from backend.units import bytes_text
from ui.render.markup import button, esc


def servers_card(reached: Mapping[str, float | None], language: str) -> str:
    """Return which servers answered and how fast; host -> seconds, None for one that did not."""
    lines = []
    for host, seconds in reached.items():
        key = "is_silent" if seconds is None else "answers"
        text = say(language, f"fetchui.{key}", host=host, ms=round(1000 * (seconds or 0)))
        lines.append(f'<li class="{key}">{esc(text)}</li>')
    return f'<ul class="servers" role="status">{"".join(lines)}</ul>'


def stored_state(one: Stored, language: str) -> str:
    """Return whether a download is complete and who needs it."""
    state = say(language, "fetchui.complete" if one.is_complete else "fetchui.partial")
    if one.users:
        use = say(language, "fetchui.used_by", models=say(language, "setup.list_comma").join(one.users))
    else:
        use = say(language, "fetchui.busy" if one.is_busy else "fetchui.unused")
    return f"{state} · {use}"


def _stored(one: Stored, language: str) -> str:
    act = ""
    if not one.is_busy:
        models = say(language, "setup.list_comma").join(one.users)
        key = "fetchui.delete_sure_used" if one.users else "fetchui.delete_sure"
        confirm = say(language, key, name=one.name, bytes=one.bytes, models=models)
        act = button(say(language, "fetchui.delete", bytes=one.bytes), "delete-download", one.name, confirm=confirm)
    figures = f"{bytes_text(one.bytes)} · {stored_state(one, language)}"
    return (
        f'<li data-download="{esc(one.name)}"><div><p>{esc(one.name)}</p><p class="figures">{esc(figures)}</p></div>'
        f'<div class="acts">{act}</div></li>'
    )


def stored_list(found: Sequence[Stored], language: str) -> str:
    """Return the downloads on the disk, each with its size, its use and a way to be rid of it."""
    if not found:
        return f'<p class="figures">{esc(say(language, "fetchui.none"))}</p>'
    total = say(language, "fetchui.total", bytes=sum(one.bytes for one in found))
    unused = [one for one in found if one.is_unused]
    every = ""
    if len(unused) > 1:
        size = sum(one.bytes for one in unused)
        confirm = say(language, "fetchui.delete_unused_sure", bytes=size)
        every = button(say(language, "fetchui.delete_unused", bytes=size), "delete-unused", "", confirm=confirm)
    rows = "".join(_stored(one, language) for one in found)
    return f'<p class="figures">{esc(total)}</p><ul class="jobs">{rows}</ul><div class="acts">{every}</div>'
