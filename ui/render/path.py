"""Where a person stands on the path from a recipe to a chat: choose, plan, run, chat. Knows nothing about gradio."""

from backend.text import say
from ui.render.markup import esc

STAGES = ("choose", "plan", "run")


def path_line(stage: str, language: str, *, reached: frozenset[str]) -> str:
    """Return the path as a short list; stages in ``reached`` can be gone to, the current one is marked."""
    items = []
    for number, name in enumerate((*STAGES, "chat"), 1):
        label = f'<b aria-hidden="true">{number}</b>{esc(say(language, f"setup.path.{name}"))}'
        if name == stage:
            items.append(f'<li class="here" aria-current="step"><span>{label}</span></li>')
        elif name in reached:
            act = f'<button type="button" data-do="stage" data-name="{name}">{label}</button>'
            items.append(f'<li class="reached">{act}</li>')
        else:
            items.append(f"<li><span>{label}</span></li>")
    return f'<ol class="path" aria-label="{esc(say(language, "setup.path.label"))}">{"".join(items)}</ol>'
