"""The machine as the path's first station: what it has, what that means in plain words, and what to do next; as one
line once a person has gone on. Knows nothing about gradio, and nothing about how a fit is worked out.
"""

from collections.abc import Sequence
from functools import reduce

from backend.fit.reach import Sized, made, widest
from backend.fit.result import Fit, Verdict
from backend.hardware import Hardware
from backend.text import has, say
from backend.units import bytes_text
from ui.render.hardware import hardware_card
from ui.render.markup import button, esc, known
from ui.render.recipes import Offer, panel

_USUAL = 7_000_000_000  # parameters of the size that most people ask for
_WORDS_PER_TOKEN = 0.75  # of English, in LLaMA's tokenizer, roughly


def reach(models: Sequence[Sized], language: str, *, brief: bool = False) -> str:
    """Return in a sentence or two how large models may be here; nothing where no fit is known.

    ``brief`` leaves out how fast a usual size is where there is no GPU.
    """
    if not models:
        return ""
    said = []
    largest = None
    for verdict in (Verdict.WELL, Verdict.TIGHT):
        one = widest(models, verdict)
        if one is None or (largest is not None and one.parameters <= largest.parameters):
            continue
        largest = one
        said.append(say(language, f"wizard.reach.{verdict}", size=one.size, how=_how(one.fit, language)))
    if largest is None:
        return say(language, "wizard.reach.no")
    said += _room(models, largest, language)
    slow = [one for one in models if one.fit.way.device == "cpu" and one.fit.tokens_per_s]
    slow = [one for one in slow if one.fit.verdict is not Verdict.NO]
    if slow and not brief:
        usual = min(slow, key=lambda one: abs(one.parameters - _USUAL))
        rate = usual.fit.tokens_per_s or 0.0
        words = rate * _WORDS_PER_TOKEN
        spoken = f"{words:.0f}" if words >= 10 else f"{max(words, 0.1):.1f}"
        bits = usual.fit.way.bits
        said.append(say(language, "wizard.reach.cpu", size=usual.size, bits=bits, words=spoken, rate=rate))
    return reduce(lambda one, two: say(language, "wizard.sentences", one=one, two=two), said)


def _room(models: Sequence[Sized], largest: Sized, language: str) -> list[str]:
    """Return a sentence where not memory but the disk limits what can be set up; none where it does not."""
    room = made(models)
    if room is None:
        return [say(language, "wizard.reach.no_disk")]
    return [say(language, "wizard.reach.disk", size=room.size)] if room.parameters < largest.parameters else []


def next_step(offers: Sequence[Offer], language: str, *, admin: bool) -> str:
    """Return what to do next: the recommended recipe with its button, the best that fits here, and the way to all."""
    usable = [one for one in offers if one.error is None]
    first = next((one for one in usable if one.recipe.recommended), None)
    fitting = [one for one in usable if one.verdict is Verdict.WELL and one is not first and not one.model]
    best = max(fitting, key=_preference, default=None)
    cards = "".join(
        f'<article class="family{" first" if one is first else ""}"><header><h3>'
        f"{esc(one.recipe.text(one.recipe.title, language))}</h3></header>"
        f"{panel(one, language, admin=admin, first=one is first)}</article>"
        for one in (first, best)
        if one is not None
    )
    every = button(say(language, "wizard.all_models", count=len(offers)), "stage", "choose", primary=first is None)
    heading = esc(say(language, "wizard.next"))
    return f'<h2>{heading}</h2><div class="families">{cards}</div><div class="acts">{every}</div>'


def _preference(one: Offer) -> tuple[bool, bool, int]:
    """Return what offers are compared by: recommended, had without accepting anybody's terms first, large."""
    return one.recipe.recommended, not one.recipe.access, one.recipe.parameters or 0


def _how(fit: Fit, language: str) -> str:
    key = f"wizard.reach.bits_{fit.way.bits}"
    return say(language, key) if has(key) else ""


def _summary(hardware: Hardware, language: str) -> str:
    """Return memory, GPUs and disk in a few words."""
    gpus = say(language, "setup.list_comma").join(f"{gpu.name} {bytes_text(gpu.total_bytes)}" for gpu in hardware.gpus)
    free = [None if size is None else bytes_text(size) for size in (hardware.ram_free, hardware.disk_free)]
    ram, disk = (known(size, language) for size in free)
    return say(language, "wizard.machine_line", ram=ram, disk=disk, gpus=gpus or say(language, "wizard.no_gpu"))


def machine_line(hardware: Hardware, means: str, language: str, *, looked: str) -> str:
    """Return the machine as one line that unfolds: for every station after the first."""
    summary = f"<strong>{esc(means)}</strong> " if means else ""
    return (
        f'<details class="machine" data-keep="machine"><summary>{summary}'
        f'<span class="figures">{esc(_summary(hardware, language))}</span></summary>'
        f"{_body(hardware, language, looked)}</details>"
    )


def machine_station(hardware: Hardware, means: str, language: str, *, looked: str, following: str) -> str:
    """Return the first station: the machine at a glance, what it means, and below it what to do next."""
    lead = means or say(language, "wizard.reach.unknown")
    return (
        f'<section class="machine"><h2>{esc(say(language, "setup.hardware.heading"))}</h2>'
        f'<p class="lead">{esc(lead)}</p>{_body(hardware, language, looked)}</section>{following}'
    )


def _body(hardware: Hardware, language: str, looked: str) -> str:
    again = button(say(language, "setup.hardware.again"), "check", "")
    return (
        f'{hardware_card(hardware, language)}<div class="looked"><p class="figures" role="status">{esc(looked)}</p>'
        f'<div class="acts">{again}</div></div>'
    )
