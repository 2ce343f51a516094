"""A plan as a receipt: each step with what it reads, writes and needs, the totals below, beside what is free now.

Knows nothing about gradio, and nothing about how a plan was made or will be run.
"""

from collections.abc import Sequence

from backend.hardware import Hardware
from backend.jobs.examination import Findings
from backend.jobs.stock import Coming
from backend.plan import NETWORK_RATE, Plan, Step
from backend.recipes import META
from backend.text import say, tell
from backend.units import bytes_text
from ui.render.downloads import coming_table
from ui.render.markup import esc, facts, guess


def _source(spec: str, scale: float | None, language: str) -> str:
    builtin = spec.removeprefix("builtin:")
    place = say(language, "setup.plan.builtin", path=builtin) if builtin != spec else spec
    return place if scale is None else say(language, "setup.plan.scaled", source=place, scale=scale)


def _ingredients(plan: Plan, found: Findings | None, language: str) -> str:
    rows = {say(language, "setup.plan.base"): _source(plan.base, None, language)}
    if plan.delta:
        rows[say(language, "setup.plan.delta")] = _source(plan.delta, None, language)
    for number, (source, scale) in enumerate(plan.loras, 1):
        label = say(language, "setup.plan.lora" if len(plan.loras) == 1 else "setup.plan.lora_number", number=number)
        rows[label] = _source(source, scale, language)
    if plan.layout == META:
        rows[say(language, "setup.plan.layout")] = say(language, "setup.form.layout_meta")
    else:
        detected = found.template if found else None
        rows[say(language, "setup.plan.template")] = (
            plan.template or detected or say(language, "setup.plan.template_auto")
        )
    if plan.dtype:
        rows[say(language, "setup.form.dtype")] = plan.dtype
    return facts(rows)


def _row(step: Step, language: str) -> str:
    cells = (
        ("reads", bytes_text(step.reads) if step.reads else "–"),
        ("writes", bytes_text(step.writes) if step.writes else "–"),
        ("memory", bytes_text(step.memory)),
        ("time", guess(step.seconds, language)),
    )
    figures = "".join(
        f'<td data-label="{esc(say(language, f"setup.plan.{name}"))}">{esc(text)}</td>' for name, text in cells
    )
    return f'<tr><th scope="row">{esc(tell(language, step.title))}</th>{figures}</tr>'


def _table(steps: Sequence[Step], language: str) -> str:
    heads = "".join(
        f'<th scope="col">{esc(say(language, f"setup.plan.{name}"))}</th>'
        for name in ("step", "reads", "writes", "memory", "time")
    )
    rows = "".join(_row(step, language) for step in steps)
    return f'<table class="receipt"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _totals(plan: Plan, hardware: Hardware, language: str) -> str:
    def beside(need: int, free: int | None) -> str:
        return say(
            language,
            "setup.plan.need_free",
            need=need,
            free=bytes_text(free) if free is not None else say(language, "setup.unknown"),
        )

    download = bytes_text(plan.download_bytes) if plan.download_bytes else say(language, "setup.recipes.none")
    return facts(
        {
            say(language, "setup.plan.disk"): beside(plan.disk_bytes, hardware.disk_free),
            say(language, "setup.plan.peak"): beside(plan.memory_bytes, hardware.ram_free),
            say(language, "setup.plan.download"): download,
            say(language, "setup.plan.whole"): guess(plan.seconds, language),
        }
    )


def _guessed(plan: Plan, language: str) -> str:
    if not plan.download_bytes:
        return ""
    return f'<p class="figures">{esc(say(language, "setup.plan.guessed", rate=NETWORK_RATE))}</p>'


def _found(found: Findings | None, language: str) -> str:
    if found is None:
        return ""
    lines = "".join(f"<li>{esc(tell(language, note))}</li>" for note in found.notes)
    return f'<section class="found"><h4>{esc(say(language, "setup.plan.found"))}</h4><ul>{lines}</ul></section>'


def plan_receipt(
    plan: Plan,
    hardware: Hardware,
    language: str,
    *,
    found: Findings | None = None,
    coming: Sequence[Coming] = (),
) -> str:
    """Return a plan as HTML, with what the headers of its sources told, and what is fetched."""
    title = plan.title.get(language) or plan.title.get("en", plan.name)
    return (
        f'<section class="plan"><h3>{esc(title)}</h3>{_ingredients(plan, found, language)}{_found(found, language)}'
        f"{coming_table(coming, language)}"
        f'{_table(plan.steps, language)}<div class="totals">{_totals(plan, hardware, language)}</div>'
        f"{_guessed(plan, language)}</section>"
    )
