"""The buttons of one model: the likely next step in front, the rest folded away. Pure text; no gradio.

Each reports the model's id: a folder's name may be no text at all.
"""

from backend.jobs.shelf import Shelved
from backend.library.condition import Way
from backend.text import say
from ui.render.markup import button, esc, field

_WAYS = (Way.CONVERT, Way.MERGE, Way.DELTA)


def can_load(shelved: Shelved) -> bool:
    """Tell whether a model can be loaded, as far as is known; faults that a repair mends do not prevent it."""
    if shelved.info.problem or not shelved.info.is_text:
        return False
    return shelved.found is None or all(fault.way is Way.MEND for fault in shelved.found.faults)


def model_acts(shelved: Shelved, language: str, templates: tuple[str, ...]) -> str:
    """Return everything that may be done with a model now."""
    front = [*_loading(shelved, language), *_ways(shelved, language)]
    if not shelved.is_checking and shelved.info.bytes and shelved.info.is_text:
        front.append(_act(shelved, language, "check"))
    repair = _repair(shelved, language, templates)
    return f'{repair}<div class="acts">{"".join(front)}</div>{_more(shelved, language)}'


def _act(shelved: Shelved, language: str, do: str, *, primary: bool = False, confirm: str = "") -> str:
    return button(say(language, f"models.do.{do}"), do, shelved.info.id, primary=primary, confirm=confirm)


def _loading(shelved: Shelved, language: str) -> list[str]:
    if shelved.is_loaded:
        return [_act(shelved, language, "chat", primary=True), _act(shelved, language, "unload")]
    healthy = shelved.found is None or not shelved.found.faults  # else the repair comes first
    return [_act(shelved, language, "load", primary=healthy)] if can_load(shelved) else []


def _ways(shelved: Shelved, language: str) -> list[str]:
    """Return the way out of what Cria makes a new model of."""
    found = shelved.found
    wanted = [way for way in _WAYS if found is not None and found.goes(way)] if shelved.info.is_text else []
    return [_act(shelved, language, way, primary=True) for way in wanted]


def _ask(shelved: Shelved, language: str, what: str) -> str:
    return say(
        language, f"models.ask.{what}", name=shelved.info.name, bytes=shelved.info.bytes + shelved.info.converted
    )


def _repair(shelved: Shelved, language: str, templates: tuple[str, ...]) -> str:
    """Return the repair button, with the choice of a template where the folder has none."""
    found = shelved.found
    if found is None or not found.goes(Way.MEND) or not shelved.is_free:
        return ""
    choice = ""
    if any(fault.say.key == "models.fault.no_template.say" for fault in found.faults):
        keep = say(language, "models.ask.template_keep" if found.template else "models.ask.template_pick")
        rows = [f'<option value="">{esc(keep)}</option>']
        for name in templates:
            guessed = found.guessed and name == found.template
            text = say(language, "models.ask.template_guess", template=name) if guessed else name
            rows.append(f'<option value="{esc(name)}"{" selected" if guessed else ""}>{esc(text)}</option>')
        label = esc(say(language, "models.ask.template"))
        choice = (
            f'<label class="field"><span>{label}</span><select data-field="template">{"".join(rows)}</select></label>'
        )
    act = _act(shelved, language, "repair", primary=True, confirm=_ask(shelved, language, "repair"))
    return f'<div class="mend">{choice}<div class="acts">{act}</div></div>'


def _more(shelved: Shelved, language: str) -> str:
    """Return what is wanted now and then, folded away."""
    info, acts = shelved.info, list[str]()
    path = esc(str(info.folder))
    copied = esc(say(language, "models.do.copied"))
    if info.is_text:
        words = esc(say(language, "models.do.copy"))
        acts.append(f'<button type="button" class="act" data-copy="{path}" data-copied="{copied}">{words}</button>')
    if can_load(shelved) and not info.ready:
        acts += [_act(shelved, language, do) for do in ("lora", "dtype", "meta")]
    if shelved.is_free:
        if info.mended:
            acts.append(_act(shelved, language, "undo", confirm=_ask(shelved, language, "undo")))
        if info.converted:
            ask = say(language, "quantised.ask_drop", name=info.name, bytes=info.converted)
            acts.append(button(say(language, "quantised.drop"), "drop", info.id, confirm=ask))
        what = "delete_link" if info.is_link else "delete"
        acts.append(_act(shelved, language, "delete", confirm=_ask(shelved, language, what)))
    name = ""
    if shelved.is_free:
        # A question of its own is no place for a field that is redrawn; the card is drawn anew only when it changes.
        words = say(language, "models.ask.rename", name=info.name if info.is_text else "")
        rename = button(say(language, "models.do.rename"), "rename", info.id, enter=True)
        value = info.name if info.is_text else ""
        name = f'<div class="rename" data-form>{field(words, "name", value=value)}{rename}</div>'
    summary = esc(say(language, "models.do.more"))
    keep = f"more-{info.id}"
    return (
        f'<details data-keep="{esc(keep)}"><summary>{summary}</summary>'
        f'<div class="acts">{"".join(acts)}</div>{name}</details>'
    )


def adopting(language: str) -> str:
    """Return the form that puts a ready-made GGUF file on the shelf, folded away."""
    path = field(say(language, "ggufready.path"), "given", example="/home/me/model.Q4_K_M.gguf")
    name = field(say(language, "ggufready.name"), "name")
    act = button(say(language, "ggufready.adopt"), "adopt", "", enter=True)
    summary, hint = esc(say(language, "ggufready.have")), esc(say(language, "ggufready.have_hint"))
    return (
        f'<details class="adopt" data-keep="adopt"><summary>{summary}</summary><p class="figures">{hint}</p>'
        f'<div class="rename" data-form>{path}{name}{act}</div></details>'
    )
