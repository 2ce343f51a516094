"""A plan's ingredients: where each comes from, where else it could come from, who must be asked for it, and what a
person has already. Fields of the plan's form; knows nothing about gradio.
"""

from collections.abc import Sequence

from backend.jobs.stock import Coming
from backend.plan import Plan
from backend.recipes import Part, Recipe
from backend.text import say
from backend.units import bytes_text
from ui.render.markup import button, esc, field, link
from ui.render.terms import gated, term

_BUILTIN = "builtin:"


def place(spec: str, language: str) -> str:
    """Return a source as people read it."""
    builtin = spec.removeprefix(_BUILTIN)
    return say(language, "setup.plan.builtin", path=builtin) if builtin != spec else spec


def _role(kind: str, number: int, count: int, language: str) -> str:
    """Return what an ingredient is; delta and LoRA are words that explain themselves."""
    if kind == "base":
        return esc(say(language, "setup.plan.base"))
    several = kind == "lora" and count > 1
    word = say(language, "setup.plan.lora_number", number=number) if several else say(language, f"setup.plan.{kind}")
    return term(kind, language, word=word, where=f"plan-{number}")


def _alternatives(part: Part, chosen: str, name: str, language: str) -> str:
    """Return a list to choose another place from that holds the same model; nothing where only one is known."""
    if not part.alternatives:
        return ""
    options = "".join(
        f'<option value="{esc(one)}"{" selected" if one == chosen else ""}>{esc(place(one, language))}</option>'
        for one in part.candidates
    )
    words = esc(say(language, "wizard.take_from"))
    return f'<label class="pick"><span>{words}</span><select data-field="{esc(name)}">{options}</select></label>'


def _elsewhere(part: Part, chosen: str, name: str, language: str) -> str:
    """Return the folded fields that take an ingredient from another place."""
    own = chosen if chosen not in part.candidates else ""
    typed = field(
        say(language, "wizard.have_it"), f"own.{name}", value=own, hint=say(language, "wizard.have_it_info"),
        example=say(language, "setup.form.base_example"),
    )  # fmt: skip
    use = button(say(language, "wizard.use"), "replan", "", enter=True)
    words = esc(say(language, "wizard.elsewhere"))
    return (
        f'<details class="elsewhere" data-keep="source-{esc(name)}"><summary>{words}</summary>'
        f'{_alternatives(part, chosen, f"from.{name}", language)}{typed}<div class="acts">{use}</div></details>'
    )


def _size(part: Part, coming: Coming | None, language: str) -> str:
    if coming is not None:
        there = say(language, "wizard.there", bytes=coming.there) if coming.there else ""
        return f"{bytes_text(coming.bytes)}{there}"
    return bytes_text(part.bytes) if part.bytes else ""


def _page(coming: Coming | None, language: str) -> str:
    if coming is None:
        return ""
    hosts = coming.hosts[0]
    if coming.hosts[1:]:
        others = say(language, "setup.list_comma").join(coming.hosts[1:])
        hosts = say(language, "fetchui.or_from", host=hosts, others=others)
    version = say(language, "wizard.version", version=coming.version) if coming.version else ""
    page = link(say(language, "fetchui.page"), coming.page) if coming.page else ""
    return f'<p class="figures">{esc(hosts)} {esc(version)} {page}</p>'


def ingredients(plan: Plan, recipe: Recipe | None, coming: Sequence[Coming], language: str) -> str:
    """Return the list of ingredients. ``recipe`` is the one whose places may be changed here; None for the form's."""
    fetched = {one.source: one for one in coming}
    kinds = ["base", *(["delta"] if plan.delta else []), *("lora" for _ in plan.loras)]
    scales = [None] * (len(kinds) - len(plan.loras)) + [scale for _, scale in plan.loras]
    known = recipe.parts if recipe is not None and len(recipe.parts) == len(kinds) else ()
    rows = []
    for number, (kind, source, scale) in enumerate(zip(kinds, plan.sources, scales, strict=True)):
        part = known[number] if known else Part(source)
        one, lora = fetched.get(source), number + 1 - (len(kinds) - len(plan.loras))
        said, access = place(source, language), part.access if source in part.candidates else ""
        if scale is not None:
            said = say(language, "setup.plan.scaled", source=said, scale=scale)
        more = _elsewhere(part, source, str(number), language) if known else ""
        role = _role(kind, lora, len(plan.loras), language)
        rows.append(
            f'<li data-part="{number}"><div class="part"><span class="role">{role}</span><span class="source">'
            f'{esc(said)}</span><span class="size">{esc(_size(part, one, language))}</span>'
            f"</div>{_page(one, language)}{gated(access, language, where=part.source)}{more}</li>"
        )
    return f'<ul class="ingredients">{"".join(rows)}</ul>'
