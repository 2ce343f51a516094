"""Where a person stands on the path from a machine to a chat: five stations. Knows nothing about gradio.

Our own list and not gradio's Walkthrough: that shows one station at a time, while here the machine stays as a line
above the others, a job goes on beside them, and the last station is another tab.
"""

from backend.text import say
from ui.render.markup import esc

STATIONS = ("machine", "choose", "plan", "run", "chat")


def path_line(stage: str, language: str, *, reached: frozenset[str], recipe: str = "", job: str = "") -> str:
    """Return the path as a short list; stations in ``reached`` can be gone to, the current one is marked.

    ``recipe`` and ``job`` are what this browser looks at; they stand in the list's data for a reload to come back to.
    """
    items = []
    for number, name in enumerate(STATIONS, 1):
        text = esc(say(language, f"setup.path.{name}"))
        label = f'<b aria-hidden="true">{number}</b><span class="station">{text}</span>'
        if name == stage:
            items.append(f'<li class="here" aria-current="step"><span>{label}</span></li>')
        elif name in reached:
            act = f'<button type="button" data-do="stage" data-name="{name}">{label}</button>'
            items.append(f'<li class="reached">{act}</li>')
        else:
            items.append(f"<li><span>{label}</span></li>")
    name, place = esc(say(language, "setup.path.label")), f'data-recipe="{esc(recipe)}" data-job="{esc(job)}"'
    return f'<ol class="path" aria-label="{name}" data-stage="{esc(stage)}" {place}>{"".join(items)}</ol>'
