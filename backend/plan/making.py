"""Making a plan: a recipe's sources are found and its steps laid out, or, without asking anybody, estimated.

Sizes come from file names and lengths only; no weights are opened. Knows nothing about the network: who asks it is
given as a function, and remote sources come pinned.
"""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from backend.errors import SourceError
from backend.plan.disk import lean_bytes, lean_estimate
from backend.plan.finding import ADAPTER_CONFIG, Admit, Asked, Estimated, Find, Finder, Stored
from backend.plan.steps import lay_out
from backend.plan.value import Plan
from backend.rates import Rates
from backend.recipes import Recipe, check_name
from backend.sources.source import Source

_GUESSED = Rates()
NOTHING: Stored = MappingProxyType({})


def make_plan(
    recipe: Recipe,
    *,
    name: str | None = None,
    self_test: bool = True,
    find: Find = lambda _: None,
    admit: Admit = lambda _: None,
    downloads: Path = Path(),
    rates: Rates = _GUESSED,
) -> Plan:
    """Lay out the steps that make a recipe's model folder.

    ``find`` asks the network about a source that is not on this machine, ``admit`` whether we may have what is to be
    fetched; that goes below ``downloads``.

    Raises:
        UsageError: a name that cannot be a model's; nobody was asked.
        SourceError: a source is not there or holds no weights.
    """
    finder = Asked(find, downloads, admit)
    plan = _plan(recipe, finder, name=name, self_test=self_test, rates=rates)
    plan = replace(plan, remotes=tuple(finder.remotes), instead=tuple(finder.instead))
    return replace(plan, lean=lean_bytes(plan, downloads))


def estimate_plan(
    recipe: Recipe,
    *,
    name: str | None = None,
    self_test: bool = True,
    rates: Rates = _GUESSED,
    stored: Stored = NOTHING,
) -> Plan:
    """Return the plan as far as the recipe's own figures tell; nobody is asked. What is on this machine is looked at.

    ``stored``: see ``Estimated``.

    Raises:
        UsageError: a name that cannot be a model's.
        SourceError: a source that should be here is not, or the recipe does not say how large one is.
    """
    finder = Estimated(stored)
    plan = _plan(recipe, finder, name=name, self_test=self_test, rates=rates)
    if not finder.coming:
        return plan
    size = output_bytes(recipe)
    plan = replace(plan.with_output(size) if size else plan, estimated=True)
    return replace(plan, lean=lean_estimate(plan, [finder.open(part) for part in recipe.parts], finder.coming))


def output_bytes(recipe: Recipe) -> int | None:
    """Return the bytes of a recipe's finished weights; None where it does not say how many parameters there are.

    A plain download stays as it is. Else a number takes what it takes in the base, but four bytes where the recipe says
    so or, as in Stanford's script, a float32 delta's new row is the mean of the others.
    """
    if recipe.dtype is None and len(recipe.parts) == 1:
        return recipe.base.bytes
    if recipe.parameters is None:
        return None
    wide = recipe.delta is not None and recipe.delta.rule == "mean" and _is_wide(recipe.delta.bytes, recipe.parameters)
    same = recipe.dtype is None and (wide or _is_wide(recipe.base.bytes, recipe.parameters))
    return recipe.parameters * (4 if same or recipe.dtype == "float32" else 2)


def _is_wide(size: int | None, parameters: int) -> bool:
    return size is not None and size > 3 * parameters


def _plan(recipe: Recipe, finder: Finder, *, name: str | None, self_test: bool, rates: Rates) -> Plan:
    name = check_name(recipe.name if name is None else name)
    base = finder.open(recipe.base)
    delta = finder.open(recipe.delta) if recipe.delta else None
    loras = [finder.open(part) for part in recipe.loras]
    _check_roles([base, *([delta] if delta else [])], loras)

    def address(source: Source) -> str:
        return source.spec if source.spec in finder.coming else source.address

    return Plan(
        recipe=recipe.name,
        title=recipe.title,
        name=name,
        base=address(base),
        delta=address(delta) if delta else None,
        loras=tuple((address(lora), part.scale) for lora, part in zip(loras, recipe.loras, strict=True)),
        template=recipe.template,
        context=recipe.context,
        questions=recipe.questions,
        steps=lay_out(recipe, base, [*([delta] if delta else []), *loras], remote=finder.coming, self_test=self_test),
        delta_rule=recipe.delta.rule if recipe.delta else "auto",
        dtype=recipe.dtype,
        layout=recipe.layout,
        rates=rates,
    )


def _check_roles(whole: list[Source], loras: list[Source]) -> None:
    """Refuse a LoRA where a whole model is meant, and the other way round; a packed download cannot tell yet."""
    for source in whole:
        if source.has(ADAPTER_CONFIG) and not source.has("config.json"):
            raise SourceError("plan.is_adapter", source=source.spec)
    for lora in loras:
        sealed = lora.packed and not lora.weights
        if not lora.has(ADAPTER_CONFIG) and not sealed:
            raise SourceError("plan.no_adapter", source=lora.spec)
