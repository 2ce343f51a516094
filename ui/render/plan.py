"""A plan as a receipt: ingredients, steps with what each needs, totals beside what is free now, what the result needs
to run, and the form that starts it. What stands in the way is said beside the button, which then is not the big one.

Knows nothing about gradio, and nothing about how a plan was made or will be run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from backend.errors import CriaError
from backend.fit.result import Outlook
from backend.hardware import Hardware
from backend.jobs.examination import Findings
from backend.jobs.stock import Coming
from backend.plan import Plan, Step
from backend.rates import Rates
from backend.recipes import META, Recipe
from backend.text import guess, say, tell
from backend.units import bytes_text
from ui.render.fit import fit_table, verdict_badge
from ui.render.ingredients import ingredients
from ui.render.markup import button, esc, facts, field, problem, tick
from ui.render.remedies import Fix, Means, fix_for
from ui.render.terms import term

_OTHERS = 2  # sizes to offer where this one does not fit


@dataclass(frozen=True)
class Sheet:
    """What is known besides the plan. ``recipe``: the one whose ingredients can be taken from elsewhere; ``name``: what
    the result will be called; ``found``: what the sources' headers told; ``blocked`` and ``blocked_lean``: what stands
    in the way of starting, with sources kept and with sources removed on the way; ``asked``: the sources were found.
    """

    hardware: Hardware
    name: str
    recipe: Recipe | None = None
    found: Findings | None = None
    coming: Sequence[Coming] = ()
    outlook: Outlook | None = None
    blocked: CriaError | None = None
    blocked_lean: CriaError | None = None
    asked: bool = True

    @property
    def wants_token(self) -> bool:
        """Whether an access token belongs to it."""
        gated = self.recipe is not None and bool(self.recipe.access)
        return gated or (self.blocked is not None and fix_for(self.blocked, Means()) is Fix.TOKEN)


def _details(plan: Plan, sheet: Sheet, language: str) -> str:
    rows = {}
    if plan.layout == META:
        rows[term("layout", language, word=say(language, "setup.plan.layout"), where="plan")] = say(
            language, "setup.form.layout_meta"
        )
    else:
        detected = sheet.found.template if sheet.found else None
        word = term("template", language, word=say(language, "setup.plan.template"), where="plan")
        rows[word] = plan.template or detected or say(language, "setup.plan.template_auto")
    if plan.dtype:
        rows[term("dtype", language, word=say(language, "setup.form.dtype"), where="plan")] = plan.dtype
    licence = sheet.recipe.text(sheet.recipe.licence, language) if sheet.recipe else ""
    if licence:
        rows[esc(say(language, "setup.recipes.licence"))] = licence
    cells = "".join(f"<div><dt>{word}</dt><dd>{esc(text)}</dd></div>" for word, text in rows.items())
    return f'<dl class="facts">{cells}</dl>'


def _row(step: Step, rates: Rates, language: str) -> str:
    cells = (
        ("reads", bytes_text(step.reads) if step.reads else "–"),
        ("writes", bytes_text(step.writes) if step.writes else "–"),
        ("memory", bytes_text(step.memory)),
        ("time", guess(language, step.seconds(rates))),
    )
    figures = "".join(
        f'<td data-label="{esc(say(language, f"setup.plan.{name}"))}">{esc(text)}</td>' for name, text in cells
    )
    return f'<tr><th scope="row">{esc(tell(language, step.title))}</th>{figures}</tr>'


def _table(plan: Plan, language: str) -> str:
    heads = "".join(
        f'<th scope="col">{esc(say(language, f"setup.plan.{name}"))}</th>'
        for name in ("step", "reads", "writes", "memory", "time")
    )
    rows = "".join(_row(step, plan.rates, language) for step in plan.steps)
    return f'<table class="receipt"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _totals(plan: Plan, hardware: Hardware, language: str) -> str:
    def beside(need: int, free: int | None) -> str:
        there = bytes_text(free) if free is not None else say(language, "setup.unknown")
        return say(language, "setup.plan.need_free", need=need, free=there)

    rows = {say(language, "setup.plan.disk"): beside(plan.disk_bytes, hardware.disk_free)}
    if plan.lean_disk_bytes < plan.disk_bytes:
        rows[say(language, "wizard.disk_lean")] = beside(plan.lean_disk_bytes, hardware.disk_free)
    trying = {say(language, "setup.plan.trying"): beside(plan.try_memory, hardware.ram_free)} if plan.try_memory else {}
    download = bytes_text(plan.download_bytes) if plan.download_bytes else say(language, "setup.recipes.none")
    rows |= {
        say(language, "setup.plan.peak"): beside(plan.must_have_memory, hardware.ram_free),
        **trying,
        say(language, "setup.plan.download"): download,
        say(language, "setup.plan.whole"): guess(language, plan.seconds),
    }
    return f'<div class="totals">{facts(rows)}</div>'


def _notes(plan: Plan, sheet: Sheet, language: str) -> str:
    """Return in small print how sure the figures are."""
    said = [say(language, "wizard.estimated" if plan.estimated or not sheet.asked else "wizard.exact")]
    if plan.download_bytes and not plan.rates.network_measured:
        said.append(say(language, "setup.plan.guessed", rate=plan.rates.network))
    if (free := sheet.hardware.ram_free) is not None and plan.try_memory > free:
        said.append(say(language, "setup.plan.untried"))
    said += [one.text(language) for one in plan.instead]
    return "".join(f'<p class="figures">{esc(text)}</p>' for text in said)


def _found(found: Findings | None, language: str) -> str:
    if found is None or not found.notes:
        return ""
    lines = "".join(f"<li>{esc(tell(language, note))}</li>" for note in found.notes)
    return f'<section class="found"><h4>{esc(say(language, "setup.plan.found"))}</h4><ul>{lines}</ul></section>'


def fit_details(outlook: Outlook, language: str) -> str:
    """Return the verdict with its reason and the cheapest change."""
    best = outlook.best
    said = [best.why] if best else []
    said += [outlook.remedy] if outlook.remedy else []
    lines = "".join(f"<p>{esc(tell(language, one))}</p>" for one in said)
    others = [button(say(language, "wizard.instead", name=one), "look", one) for one in outlook.alternatives[:_OTHERS]]
    return f'{verdict_badge(outlook.verdict, language)}{lines}<div class="acts">{"".join(others)}</div>'


def _fit(outlook: Outlook | None, language: str) -> str:
    if outlook is None or outlook.best is None:
        return ""
    heading = esc(say(language, "wizard.will_it_run"))
    sums = fit_table(outlook, language)
    return f'<section class="will"><h4>{heading}</h4>{fit_details(outlook, language)}{sums}</section>'


def _keep(plan: Plan, language: str) -> str:
    if not plan.download_bytes:
        return ""
    less = plan.lean_disk_bytes < plan.disk_bytes
    hint = say(language, "wizard.keep_info", kept=plan.disk_bytes, lean=plan.lean_disk_bytes) if less else ""
    return tick(say(language, "wizard.keep"), "keep", on=plan.keep_sources, hint=hint)


def _acts(plan: Plan, sheet: Sheet, blocked: CriaError | None, language: str, kind: str) -> str:
    """Return what is in the way and the buttons, for sources kept or removed; the style shows one of the two."""
    why = problem(blocked, language) if blocked else ""
    back = button(say(language, "setup.plan.back"), "stage", "choose")
    if not sheet.asked:
        start = button(say(language, "wizard.ask_again"), "replan", "", primary=True)
    else:
        start = button(say(language, "setup.plan.start"), "begin", plan.name, primary=blocked is None, enter=True)
    return f'<div class="starting {kind}">{why}<div class="acts">{start}{back}</div></div>'


def _starting(plan: Plan, sheet: Sheet, language: str) -> str:
    if sheet.blocked == sheet.blocked_lean or not plan.download_bytes:
        return _acts(plan, sheet, sheet.blocked, language, "either")
    return _acts(plan, sheet, sheet.blocked, language, "kept") + _acts(
        plan, sheet, sheet.blocked_lean, language, "lean"
    )


def _token(sheet: Sheet, language: str) -> str:
    if not sheet.wants_token:
        return ""
    return field(say(language, "fetchui.token"), "token", kind="password", hint=say(language, "wizard.token_info"),
                 example="hf_...")  # fmt: skip


def plan_receipt(plan: Plan, sheet: Sheet, language: str) -> str:
    """Return a plan as HTML: a form whose fields travel with its buttons."""
    title = plan.title.get(language) or plan.title.get("en", plan.name)
    name = field(say(language, "setup.plan.name"), "name", value=sheet.name, hint=say(language, "setup.plan.name_info"))
    return (
        f'<section class="plan" data-form="plan"><h3>{esc(title)}</h3>'
        f"{ingredients(plan, sheet.recipe, sheet.coming, language)}{_details(plan, sheet, language)}"
        f"{_found(sheet.found, language)}{_table(plan, language)}"
        f"{_totals(plan, sheet.hardware, language)}{_notes(plan, sheet, language)}{_fit(sheet.outlook, language)}"
        f'<div class="wishes">{_token(sheet, language)}{name}{_keep(plan, language)}</div>'
        f"{_starting(plan, sheet, language)}</section>"
    )
