"""LoRAs that a model has attached: a switch, a number and a slider for each, and what a reply or a reload says of them.

Knows nothing about gradio, or about what a strength does to a model.
"""

from collections.abc import Sequence
from hashlib import blake2s
from os import fsencode

from backend.engines.base import Lora
from backend.text import say
from ui.render.markup import esc, remark

MOST = 10.0  # that can be typed
SLIDER = 2.0  # that can be slid to
_STEP = 0.05
Scales = Sequence[tuple[str, float]]


def lora_id(text: str) -> str:
    """Return what stands for a name or a folder in the page; either may hold anything."""
    return blake2s(fsencode(text.encode("utf-8", "replace").decode()), digest_size=6).hexdigest()


def scales_text(loras: Scales, language: str) -> str:
    """Return names with their strengths; a strength of 1 goes without saying."""
    parts = [name if scale == 1 else say(language, "loraui.scaled", name=name, scale=scale) for name, scale in loras]
    return say(language, "setup.list_comma").join(parts)


def strengths(loras: Scales, language: str, *, title: str = "", lost: Sequence[str] = ()) -> str:
    """Return one row for each (name or folder, strength); nothing at all where there is nothing to show.

    ``lost`` are names that a conversation was set to use and that are not attached.
    """
    gone = ""
    if lost:
        names = say(language, "setup.list_comma").join(lost)
        gone = remark(say(language, "loraui.lost", names=names), kind="warn")
    if not loras:
        return gone
    head = f'<p class="title">{esc(title)}</p>' if title else ""
    rows = "".join(_row(name, scale, language) for name, scale in loras)
    label = esc(title or say(language, "loraui.strengths"))
    return f'{head}{gone}<div class="loras" role="group" aria-label="{label}">{rows}</div>'


def _row(folder: str, scale: float, language: str) -> str:
    name, key = Lora(folder).name, lora_id(folder)
    strength = esc(say(language, "loraui.strength", name=name))
    value = f"{scale:g}"
    return (
        f'<div class="lora" data-lora="{key}"><label title="{esc(name)}"><input type="checkbox"'
        f' data-on="{f"{scale or 1:g}"}"{" checked" if scale else ""}><span>{esc(name)}</span></label>'
        f'<input type="number" min="0" max="{MOST:g}" step="{_STEP}" value="{value}" data-field="{key}"'
        f' inputmode="decimal" aria-label="{strength}">'
        f'<input type="range" min="0" max="{SLIDER:g}" step="{_STEP}" value="{value}" aria-label="{strength}"></div>'
    )


def changed_loras(attached: Sequence[Lora], wanted: Sequence[Lora], language: str) -> list[str]:
    """Return what loading again would change about the attached LoRAs, as sentences."""
    now, kept = {lora.folder: lora.scale for lora in attached}, {lora.folder for lora in wanted}
    told = {
        "attach": [(lora.name, lora.scale) for lora in wanted if lora.folder not in now],
        "detach": [(lora.name, 1.0) for lora in attached if lora.folder not in kept],
        "change": [(lora.name, lora.scale) for lora in wanted if now.get(lora.folder, lora.scale) != lora.scale],
    }
    named = {key: scales_text(loras, language) for key, loras in told.items() if loras}
    return [say(language, f"loraui.reload.{key}", names=names) for key, names in named.items()]
