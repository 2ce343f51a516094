"""The recipe gallery: one card per family with its sizes to pick from, what each is good for, whether it fits, what it
costs, what to press. Knows nothing about gradio.

All sizes are drawn at once and most of them hidden, with what the filters ask for in their data: picking a size and
searching happen in the browser (assets/js/cards.js) and ask nobody.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backend.errors import CriaError
from backend.fit.result import Outlook, Verdict
from backend.plan import Plan
from backend.recipes import Recipe
from backend.text import guess, has, say, tell
from backend.units import bytes_text
from ui.render.fit import verdict_badge
from ui.render.markup import button, esc, facts, problem
from ui.render.terms import gated


@dataclass(frozen=True)
class Offer:
    """One recipe as seen from here and now. ``plan``: what it comes to as far as is known without asking anybody;
    ``model``: its model on the shelf; ``job``: its set-up that runs.
    """

    recipe: Recipe
    plan: Plan | None = None
    outlook: Outlook | None = None
    error: CriaError | None = None  # why it cannot be planned here
    model: str | None = None
    job: str | None = None

    @property
    def verdict(self) -> Verdict | None:
        """Whether it can be made and run here; None where that is not known."""
        return self.outlook.verdict if self.outlook else None


def fit_badge(outlook: Outlook, language: str) -> str:
    """Return the verdict as a word in its colour, with what it is that is tight; nothing where there is none."""
    best = outlook.best
    if not outlook.verdict:
        return ""
    reason = best.why if best and best.verdict is outlook.verdict else outlook.remedy
    return verdict_badge(outlook.verdict, language, why=tell(language, reason) if reason else "")


def language_names(codes: Sequence[str], language: str) -> str:
    """Return the names of languages by their codes."""
    names = (say(language, key) if has(key := f"setup.speaks.{code.split('-')[0]}") else code for code in codes)
    return say(language, "setup.list_comma").join(dict.fromkeys(names)) or say(language, "setup.unknown")


def _facts(offer: Offer, language: str) -> str:
    recipe, plan = offer.recipe, offer.plan
    unknown = say(language, "setup.recipes.asked")
    size = download = time = unknown
    if plan is not None:
        size = bytes_text(plan.disk_bytes - plan.download_bytes)
        download = bytes_text(plan.download_bytes) if plan.download_bytes else say(language, "setup.recipes.none")
        time = guess(language, plan.seconds)
        if plan.download_bytes and not plan.rates.network_measured:
            time = say(language, "setup.recipes.time_if", time=time, rate=plan.rates.network)
    rows = {
        "setup.recipes.size": size,
        "setup.recipes.download": download,
        "wizard.time": time,
        "setup.recipes.languages": language_names(recipe.languages, language),
        "setup.recipes.licence": recipe.text(recipe.licence, language) or say(language, "setup.unknown"),
    }
    return facts({say(language, key): text for key, text in rows.items()})


def _buttons(offer: Offer, language: str, *, first: bool) -> list[str]:
    name = offer.recipe.name
    if offer.job:
        return [button(say(language, "setup.recipes.watch"), "show", offer.job, primary=first)]
    if offer.error:
        return []
    if offer.model:
        return [
            button(say(language, "setup.recipes.chat"), "chat", offer.model, primary=first),
            button(say(language, "setup.recipes.again"), "look", name),
        ]
    look = button(say(language, "setup.recipes.look"), "look", name)
    return [button(say(language, "setup.recipes.start"), "start", name, primary=True), look] if first else [look]


def _badges(offer: Offer, language: str) -> str:
    keys = []
    if offer.job:
        keys.append("setup.recipes.being_made")
    elif offer.model:
        keys.append("setup.recipes.on_shelf")
    elif offer.recipe.recommended:
        keys.append("setup.recipes.recommended")
    own = "".join(f'<span class="badge">{esc(say(language, key))}</span>' for key in keys)
    return own + (fit_badge(offer.outlook, language) if offer.outlook else "")


def _obstacle(error: CriaError | None, language: str, admin: bool) -> str:
    """Return why a recipe cannot be used here; it may name folders, so others than administrators only learn that."""
    if error is None:
        return ""
    return problem(error if admin else CriaError("ui.for_admins"), language, kind="warn")


def _words(recipe: Recipe, language: str) -> str:
    """Return what a search looks through, in lower case."""
    said = [recipe.text(table, language) for table in (recipe.title, recipe.about, recipe.good_for)]
    sources = [part.source for part in recipe.parts]
    every = [recipe.name, recipe.family, recipe.size, *recipe.tags, *recipe.title.values(), *said, *sources]
    return " ".join([*every, language_names(recipe.languages, language)]).casefold()


def panel(offer: Offer, language: str, *, admin: bool, first: bool, hidden: bool = False) -> str:
    """Return one recipe: badges, its good-for line, figures, and what to press."""
    recipe = offer.recipe
    good_for, about = recipe.text(recipe.good_for, language), recipe.text(recipe.about, language)
    codes = " ".join(dict.fromkeys(code.split("-")[0] for code in recipe.languages))
    data = {
        "recipe": recipe.name,
        "words": _words(recipe, language),
        "fit": offer.verdict or "",
        "languages": codes,
        "millions": round((recipe.parameters or 0) / 1e6),
        "gated": "yes" if recipe.access else "no",
    }
    attributes = " ".join(f'data-{name}="{esc(value)}"' for name, value in data.items())
    acts = "".join(_buttons(offer, language, first=first)) if admin else ""
    return (
        f'<div class="recipe" {attributes}{" hidden" if hidden else ""}>'
        f'<div class="badges">{_badges(offer, language)}</div>'
        f'<p class="good-for">{esc(good_for)}</p><p class="about">{esc(about)}</p>{_facts(offer, language)}'
        f"{gated(recipe.access, language, where=recipe.name)}{_obstacle(offer.error, language, admin)}"
        f'<div class="acts">{acts}</div></div>'
    )


def title_of(recipe: Recipe, language: str) -> str:
    """Return a recipe's title without its size, which is the family's."""
    return recipe.text(recipe.title, language).removesuffix(recipe.size).rstrip()


def pick(offers: Sequence[Offer]) -> Offer:
    """Return the size of a family to show first, of sizes from small to large: what is being made or is there, else
    the largest that runs well, else the smallest that runs at all.
    """
    well = [one for one in offers if one.verdict is Verdict.WELL]
    tight = [one for one in offers if one.verdict is Verdict.TIGHT]
    for found in ([one for one in offers if one.job], [one for one in offers if one.model], well[-1:], tight):
        if found:
            return found[0]
    return offers[0]


def _chips(offers: Sequence[Offer], shown: Offer, language: str) -> str:
    """Return the sizes to pick from, each with its verdict as a coloured dot that is also a word."""
    if len(offers) < 2:
        return ""
    chips = []
    for one in offers:
        name = one.recipe.size or one.recipe.text(one.recipe.title, language)
        verdict = say(language, f"fit.{one.verdict}") if one.verdict else ""
        dot = f'<i class="dot {one.verdict}"></i><span class="unseen"> {esc(verdict)}</span>' if one.verdict else ""
        on = "true" if one is shown else "false"
        chips.append(
            f'<button type="button" class="chip" data-pick="{esc(one.recipe.name)}" aria-pressed="{on}"'
            f' title="{esc(verdict)}">{dot}{esc(name)}</button>'
        )
    return f'<div class="sizes" role="group" aria-label="{esc(say(language, "wizard.sizes"))}">{"".join(chips)}</div>'


def _family(name: str, offers: Sequence[Offer], language: str, *, admin: bool, first: bool) -> str:
    shown = pick(offers)
    one_size = len(offers) == 1
    title = shown.recipe.text(shown.recipe.title, language) if one_size else title_of(shown.recipe, language)
    panels = "".join(
        panel(one, language, admin=admin, first=first and one is shown, hidden=one is not shown) for one in offers
    )
    chips = _chips(offers, shown, language)
    return (
        f'<article class="family{" first" if first else ""}" data-family="{esc(name)}"'
        f' data-first="{esc(shown.recipe.name)}"><header><h3>{esc(title)}</h3>{chips}</header>{panels}</article>'
    )


def families(offers: Iterable[Offer]) -> list[tuple[str, list[Offer]]]:
    """Return offers by family, families in the order of their first recipe, sizes from small to large."""
    found: dict[str, list[Offer]] = {}
    for one in offers:
        found.setdefault(one.recipe.family or one.recipe.name, []).append(one)
    return [(name, sorted(every, key=lambda one: one.recipe.parameters or 0)) for name, every in found.items()]


def _more(count: int, language: str) -> str:
    """Return the button to families further down: the page shows a dozen until somebody searches or presses it."""
    words = esc(say(language, "wizard.more", count=count))
    return f'<div class="acts more" hidden><button type="button" class="act" data-more>{words}</button></div>'


def _nothing(language: str, *, admin: bool) -> str:
    """Return what a search without results says, with the ways out."""
    own = f"<p>{esc(say(language, 'wizard.nothing.own'))}</p>" if admin else ""
    clear = f'<button type="button" class="act" data-clear>{esc(say(language, "wizard.nothing.clear"))}</button>'
    return (
        f'<div class="nothing" role="status" hidden><p><strong>{esc(say(language, "wizard.nothing.say"))}</strong></p>'
        f'{own}<div class="acts">{clear}</div></div>'
    )


def _broken(problems: Sequence[CriaError], language: str) -> str:
    """Return recipes of one's own that cannot be read, each with the reason."""
    if not problems:
        return ""
    heading = esc(say(language, "wizard.broken"))
    reasons = "".join(problem(one, language, kind="warn") for one in problems)
    return f'<section class="broken"><h3>{heading}</h3>{reasons}</section>'


def recipe_gallery(offers: Sequence[Offer], language: str, *, admin: bool, problems: Sequence[CriaError] = ()) -> str:
    """Return the gallery as HTML, in the order given; without buttons for somebody who may not press them."""
    broken = _broken(problems, language) if admin else ""
    if not offers:
        return f"<p>{esc(say(language, 'setup.recipes.empty'))}</p>{broken}"
    groups = families(offers)
    cards = "".join(
        _family(name, every, language, admin=admin, first=not number and every[0].recipe.recommended)
        for number, (name, every) in enumerate(groups)
    )
    return f'{broken}<div class="families">{cards}</div>{_more(len(groups), language)}{_nothing(language, admin=admin)}'
