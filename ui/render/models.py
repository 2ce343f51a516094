"""The shelf as cards: what each model is, where it came from, how well it is, and what may be done with it.

Names of folders, and what is in their files, come from strangers; all of it is escaped. Whoever is no administrator
sees neither paths nor buttons. Knows nothing about gradio.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from backend.errors import CriaError
from backend.fit.result import Outlook
from backend.jobs.shelf import Shelved
from backend.jobs.view import JobState
from backend.library import ModelInfo
from backend.library.condition import Fault
from backend.library.record import Ingredient
from backend.text import say, tell
from backend.units import bytes_text
from ui.render.markup import bar, button, esc, facts, problem, remark
from ui.render.model_acts import adopting, can_load, model_acts
from ui.render.recipes import fit_badge

_FINDABLE = 12  # faults that are shown; a folder can have as many as it has files


@dataclass(frozen=True)
class Look:
    """How a shelf is looked at: language, rights, the folder that it is, templates to choose from, how models fit."""

    language: str
    admin: bool
    folder: str = ""
    templates: tuple[str, ...] = ()
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)


def count_text(count: int) -> str:
    """Return a number of parameters as the names of models have it: 6.74B, 560M, 72k."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size * 0.9995:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 99.5 else f"{value:.3g}{unit}"
    return str(count)


def when_text(moment: str) -> str:
    """Return an ISO date-time as this machine's clock had it; what is none is shown as it is."""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return moment[:30]


def shown_name(shelved: Shelved, language: str) -> str:
    """Return what to call a model: its folder's name, or that this is no text."""
    return shelved.info.name if shelved.info.is_text else say(language, "models.text.nameless")


def _part(one: Ingredient, language: str) -> str:
    scaled = "_scale" if one.scale is not None else ""
    role = one.role if one.role in {"base", "delta", "lora"} else "base"
    key = f"models.text.part_{role}{scaled}"
    return say(language, key if role == "lora" else f"models.text.part_{role}", source=one.source, scale=one.scale)


def _origin(shelved: Shelved, look: Look) -> str:
    info, words = shelved.info, look.language
    if info.adopted or not (info.recipe or info.origins):
        return say(words, "models.text.by_hand")
    parts = [_part(one, words) for one in info.origins] if look.admin else []
    recipe = [say(words, "models.text.by_recipe", recipe=info.recipe)] if info.recipe else []
    return " · ".join([*recipe, *parts])


def _template(shelved: Shelved, language: str) -> str:
    found, stated = shelved.found, shelved.info.template
    if found is not None and any(fault.say.key == "models.fault.no_template.say" for fault in found.faults):
        which = "would_be" if found.template else "no_template"
        return say(language, f"models.text.{which}", template=found.template)
    name = stated or (found.template if found else None)
    if not name:
        return ""
    return say(language, "models.text.kept_template") if name == "kept" else name


def _tested(shelved: Shelved, language: str) -> str:
    info = shelved.info
    if info.stops is None:
        return say(language, "models.text.untested")
    return say(
        language, "models.text.stopped" if info.stops else "models.text.ran_on", when=when_text(info.made or "?")
    )


def _files(shelved: Shelved, language: str) -> str:
    info = shelved.info
    if info.checked is not None:
        when = when_text(info.checked.when)
        if info.checked.bad:
            return say(language, "models.text.bad", count=len(info.checked.bad), when=when)
        fresh = info.checked.noted == info.checked.files
        return say(language, "models.text.good_noted" if fresh else "models.text.good", when=when)
    if info.made and info.sums and not info.adopted:
        which = "unchecked_repaired" if info.mended else "unchecked"
        return say(language, f"models.text.{which}", when=when_text(info.made))
    return say(language, "models.text.never")


def _size(info: ModelInfo, language: str) -> str:
    weights = bytes_text(info.bytes)
    return say(language, "quantised.size", bytes=info.bytes, converted=info.converted) if info.converted else weights


def _facts(shelved: Shelved, look: Look) -> str:
    info, found, words = shelved.info, shelved.found, look.language
    parameters = info.parameters or (found.parameters if found else None)
    rows = {
        "origin": _origin(shelved, look),
        "size": _size(info, words),
        "parameters": count_text(parameters) if parameters else "",
        "dtype": info.dtype or (found.dtype if found else None) or "",
        "context": say(words, "models.text.tokens", tokens=info.context) if info.context else "",
        "template": _template(shelved, words),
        "tested": _tested(shelved, words) if can_load(shelved) else "",
        "files": _files(shelved, words),
    }
    if look.admin:
        path = str(info.folder)
        rows["path"] = say(words, "models.text.link_to", path=path) if info.is_link else path
    return facts({say(words, f"models.fact.{name}"): text for name, text in rows.items() if text})


def _badges(shelved: Shelved, language: str) -> str:
    info, found = shelved.info, shelved.found
    marks = [name for name, on in (
        ("loaded", shelved.is_loaded),
        ("checking", shelved.is_checking),
        ("looking", found is None and not info.problem),
        ("unable", not can_load(shelved) and (found is not None or bool(info.problem))),
        ("faulty", can_load(shelved) and bool(found and found.faults)),
        ("repaired", info.mended),
        ("linked", info.is_link),
    ) if on]  # fmt: skip
    return "".join(f'<span class="badge {mark}">{esc(say(language, f"models.is.{mark}"))}</span>' for mark in marks)


def _fault(fault: Fault, language: str) -> str:
    hint = f" <span>{esc(tell(language, fault.hint))}</span>" if fault.hint else ""
    return f"<li><strong>{esc(tell(language, fault.say))}</strong>{hint}</li>"


def _faults(shelved: Shelved, language: str) -> str:
    """Return what is wrong with a folder: what a look found, else what its file names tell."""
    info, found = shelved.info, shelved.found
    if info.problem == "library.meta_layout" or (info.problem and not (found and found.faults)):
        error = CriaError(info.problem, name=info.name, folder=str(info.folder))
        return problem(error, language, kind="info" if info.problem == "library.meta_layout" else "warn")
    if found is None or not found.faults:
        return ""
    rows = "".join(_fault(fault, language) for fault in found.faults[:_FINDABLE])
    heading = esc(say(language, "models.fault.more"))
    return f'<div class="remark warn faults" role="note"><p class="what">{heading}</p><ul>{rows}</ul></div>'


def _damage(shelved: Shelved, language: str) -> str:
    """Return what the last check of the files found, if that is not good."""
    checked, check, name = shelved.info.checked, shelved.check, shelved.info.name
    if checked is not None and checked.bad:
        files = ", ".join(checked.bad[:8])
        error = CriaError("models.damaged", name=name, count=len(checked.bad), files=files)
        return problem(error, language, kind="warn")
    if check is None:
        return ""
    if check.state is JobState.FAILED and check.error is not None:
        return problem(check.error, language, kind="warn")
    if check.state in {JobState.CANCELLED, JobState.INTERRUPTED}:
        key = "models.check.stopped" if check.state is JobState.CANCELLED else "models.check.failed"
        return f'<p class="figures">{esc(say(language, key))}</p>'
    return ""


def _fits(shelved: Shelved, look: Look) -> str:
    outlook = look.outlooks.get(shelved.info.name)
    return fit_badge(outlook, look.language) if outlook is not None and can_load(shelved) else ""


def model_card(shelved: Shelved, look: Look) -> str:
    """Return one model as HTML."""
    words = look.language
    trouble = f"{_damage(shelved, words)}{_faults(shelved, words)}" if look.admin else ""
    acts = model_acts(shelved, words, look.templates) if look.admin else ""
    state = "loaded" if shelved.is_loaded else "idle"
    return (
        f'<article class="model {state}" data-model="{esc(shelved.info.id)}" data-form>'
        f"<header><h3>{esc(shown_name(shelved, words))}</h3>"
        f'<p class="badges">{_fits(shelved, look)}{_badges(shelved, words)}</p></header>'
        f"{_facts(shelved, look)}{trouble}{acts}</article>"
    )


def models_list(shelf: Sequence[Shelved], look: Look) -> str:
    """Return the whole shelf as HTML, in the order given."""
    words = look.language
    intro = say(words, "models.intro", folder=look.folder) if look.admin else say(words, "models.intro_guest")
    adopt = adopting(words) if look.admin else ""
    head = f'<h2>{esc(say(words, "models.heading"))}</h2><p class="figures">{esc(intro)}</p>'
    if not shelf:
        hint = say(words, "models.none_hint", folder=look.folder) if look.admin else None
        act = button(say(words, "models.to_setup"), "setup", "", primary=True) if look.admin else ""
        return f'{head}{remark(say(words, "models.none"), hint)}<div class="acts">{act}</div>{adopt}'
    total = sum(one.info.bytes + one.info.converted for one in shelf)
    count = esc(say(words, "models.count", count=len(shelf), bytes=total))
    cards = "".join(model_card(one, look) for one in shelf)
    return f'{head}<p class="figures">{count}</p>{adopt}<div class="shelf">{cards}</div>'


def checks_list(shelf: Sequence[Shelved], look: Look) -> str:
    """Return the checks that run now: how far each is, how fast, how long it takes, and how to stop it."""
    return "".join(_check(one, look) for one in shelf if one.is_checking)


def _check(shelved: Shelved, look: Look) -> str:
    job, words = shelved.check, look.language
    step = job.steps[0] if job is not None and job.steps else None
    name = say(words, "models.check.bar", name=shown_name(shelved, words))
    parts = [say(words, "models.check.starting")]
    if job is not None and job.state is JobState.QUEUED:
        parts = [say(words, "models.check.queued")]
    elif step is not None and step.total:
        parts = [say(words, "models.check.position", done=step.done, total=step.total)]
        if step.bytes_per_s:
            parts.append(say(words, "models.check.rate", rate=step.bytes_per_s))
        if step.seconds_left is not None:
            parts.append(say(words, "models.check.left", seconds=step.seconds_left))
        if step.note and look.admin:
            parts.append(tell(words, step.note))
    fraction = step.done / step.total if step is not None and step.total else None
    stop = button(say(words, "models.do.stop"), "stop", shelved.info.id) if look.admin else ""
    return (
        f'<section class="check" data-check="{esc(shelved.info.id)}"><h3>{esc(name)}</h3>'
        f'{bar(name, fraction, kind="running")}<p class="figures">{esc(" · ".join(parts))}</p>'
        f'<div class="acts">{stop}</div></section>'
    )
