"""What the choices under "How to load it" mean on this machine: what fewer bits save and cost, as foretold and as it
was then measured; what loading again would change; and what there is to choose at all.

Pure: records and a language in, escaped HTML or plain values out. Knows nothing about gradio or how fits are found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from backend.engines import AUTO
from backend.engines.base import EngineOptions, EngineStatus
from backend.engines.choice import ON_CPU
from backend.fit.measured import Load
from backend.fit.result import Fit, Verdict
from backend.hardware import Hardware
from backend.text import say
from backend.units import bytes_text
from ui.render.loras import changed_loras
from ui.render.markup import esc, remark

_NEVER_LLAMACPP = ("float32", "bfloat16")  # number formats that choose the other engine whatever the model is
_DEVICES = ("auto", "cuda", "cpu", "mps")


@dataclass(frozen=True)
class Precision:
    """One precision in the place where the model would run: the forecast, and what its last load was like."""

    fit: Fit
    last: Load | None = None


def precisions(
    ways: Sequence[Precision], language: str, *, chosen: EngineOptions, computes: str, has_llamacpp: bool
) -> str:
    """Return what 16, 8 and 4 bits take and give here, and a sentence about what they cost; nothing where unknown.

    ``chosen``: the options as they were chosen; ``computes``: the engine that would compute with them.
    """
    if not ways:
        return ""
    rows = "".join(_row(one, language) for one in ways)
    on_gpu = ways[0].fit.way.device != "cpu"
    if on_gpu:
        kind = "gpu"
    elif computes == ON_CPU:
        kind = "llamacpp"
    else:
        can_not = chosen.engine == AUTO and chosen.dtype not in _NEVER_LLAMACPP
        kind = "missing" if not has_llamacpp else "slow" if can_not else "chosen"
    return f'<dl class="ways">{rows}</dl><p class="hint">{esc(say(language, f"engineui.cost.{kind}"))}</p>'


def _row(one: Precision, language: str) -> str:
    fit, last = one.fit, one.last
    told = [bytes_text(sum(memory.total for memory in fit.needs.values()))]
    measured = last.tokens_per_s if last else 0.0
    if fit.tokens_per_s and measured <= fit.tokens_per_s:  # no bound for weights that stay in the processor's cache
        told.append(say(language, "engineui.at_most", rate=fit.tokens_per_s))
    if fit.verdict is Verdict.NO:
        told.append(say(language, "fit.no"))
    was = ""
    if last is not None:
        key = "engineui.measured_rate" if last.tokens_per_s else "engineui.measured"
        was = say(language, key, bytes=last.measured, rate=last.tokens_per_s)
        was = f'<span class="was">{esc(was)}</span>'
    name = say(language, "ggufready.as_is" if fit.way.stored else "engineui.bits", bits=fit.way.bits)
    return f'<div class="{esc(fit.verdict)}"><dt>{esc(name)}</dt><dd>{esc(" · ".join(told))}{was}</dd></div>'


def reload_changes(status: EngineStatus, picked: str | None, wanted: EngineOptions, language: str) -> str:
    """Return what loading now would change about what is loaded; nothing where nothing would, or nothing is loaded."""
    if not status.answers or not picked:
        return ""
    if status.model != picked:
        return remark(say(language, "engineui.other", model=status.model, picked=picked))
    named = {
        "engines_label": (status.options.engine, wanted.engine),
        "device_label": (status.options.device, wanted.device),
        "bits_label": (status.options.bits, wanted.bits),
        "num_gpus": (status.options.num_gpus, wanted.num_gpus),
        "gpus": (status.options.gpus, wanted.gpus),
        "max_gpu_memory": (status.options.max_gpu_memory, wanted.max_gpu_memory),
        "dtype_label": (status.options.dtype, wanted.dtype),
        "context": (status.options.context, wanted.context),
    }
    parts = [
        say(
            language,
            "engineui.change",
            name=say(language, f"chat.{name}"),
            now=_value(name, now, language),
            then=_value(name, then, language),
        )
        for name, (now, then) in named.items()
        if now != then
    ]
    if status.options.idle_minutes != wanted.idle_minutes:
        values = {"now": status.options.idle_minutes, "then": wanted.idle_minutes}
        parts.append(say(language, "engineui.change", name=say(language, "remote.idle"), **values))
    parts += changed_loras(status.options.loras, wanted.loras, language)
    return remark(" ".join(parts), say(language, "engineui.reload_hint")) if parts else ""


def _value(name: str, value: object, language: str) -> str:
    if name == "bits_label":
        return say(language, "engineui.bits", bits=int(str(value)))
    if name in {"engines_label", "device_label", "dtype_label"}:
        area = name.removesuffix("_label")
        return say(language, f"chat.{area}.{value}")
    if not value:
        return say(language, "chat.device.auto")
    if name == "max_gpu_memory":
        return bytes_text(int(str(value)))
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def devices(hardware: Hardware, chosen: str, language: str) -> tuple[list[tuple[str, str]], str]:
    """Return what to offer as "Compute on", as (words, value), and a word about what is missing."""
    there = {"cuda": bool(hardware.gpus), "mps": hardware.mps}
    offered = [one for one in _DEVICES if there.get(one, True) or one == chosen]
    missing = "" if hardware.gpus or hardware.mps else say(language, "engineui.no_gpu")
    return [(say(language, f"chat.device.{one}"), one) for one in offered], missing
