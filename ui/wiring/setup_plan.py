"""From a recipe, with a person's own places for its ingredients, or from the form, to a plan, its receipt and its job.

Knows nothing about events.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.errors import CriaError, UsageError
from backend.jobs.examination import Findings
from backend.plan import Plan, check_plan
from backend.recipes import LAYOUTS, Part, Recipe, check_name, custom_recipe, find_recipe
from ui.render.plan import Sheet, plan_receipt
from ui.wiring.setup_place import OF_JOB, Place, Press
from ui.wiring.setup_screen import Screen, Updates


def form_recipe(fields: Sequence[str]) -> Recipe:
    """Turn what a person typed into a recipe; the fields come in the form's order.

    Raises:
        UsageError: something is missing or cannot be used.
    """
    base, delta, loras, name, template, dtype, layout, rule = fields
    if not base.strip():
        raise UsageError("setup.form.no_base")
    if not name.strip():
        raise UsageError("setup.form.no_name")
    return custom_recipe(
        name.strip(),
        base=base.strip(),
        delta=delta.strip() or None,
        loras=[line.strip() for line in loras.splitlines() if line.strip()],
        template=template or None,
        rule=rule or "auto",
        dtype=dtype or None,
        layout=layout or LAYOUTS[0],
    )


def recipe_of(plan: Plan, known: Sequence[Recipe] = ()) -> Recipe:
    """Return what a job was asked for as a recipe, so that it can be planned anew.

    Of ingredients that are those of the plan's recipe, if that is among the ``known``, everything stays known.
    """
    parts = {part.source: part for recipe in known if recipe.name == plan.recipe for part in recipe.parts}

    def part(source: str) -> Part:
        return parts.get(source, Part(source))

    return Recipe(
        name=plan.recipe,
        title=plan.title,
        base=part(plan.base),
        delta=replace(part(plan.delta), rule=plan.delta_rule) if plan.delta else None,
        loras=tuple(replace(part(source), scale=scale) for source, scale in plan.loras),
        template=plan.template,
        context=plan.context,
        questions=plan.questions,
        dtype=plan.dtype,
        layout=plan.layout,
    )


@dataclass(frozen=True)
class Order:
    """What is wanted: the recipe, as it is with a person's own places, and the one whose places can be changed (None
    for the form's, which are changed there). ``at`` is how a place names it.
    """

    recipe: Recipe
    known: Recipe | None
    at: str

    def plan(self, screen: Screen) -> Plan:
        """Return the plan; the network is asked.

        Raises:
            CriaError: a source cannot be had.
        """
        return screen.services.plan(self.recipe, choice=screen.choice)

    @staticmethod
    def read(screen: Screen, at: str, press: Press, form: Sequence[str]) -> "Order":
        """Return what a browser's place and fields ask for.

        Raises:
            UsageError, JobError: no such recipe or job, or something typed that cannot be used.
        """
        if not at:
            return Order(form_recipe(form), None, at)
        if at.startswith(OF_JOB):
            known = recipe_of(screen.services.jobs.plan(at.removeprefix(OF_JOB)))
        else:
            known = find_recipe(screen.services.recipes(), at)
        return Order(press.ingredients_of(known), known, at)


def _block(screen: Screen, plan: Plan) -> CriaError | None:
    """Return what stands in the way of a plan here and now."""
    try:
        check_plan(plan, screen.services.hardware(), screen.services.settings.models_dir)
    except CriaError as error:
        return error
    return None


def open_plan(
    screen: Screen, order: Order, *, name: str = "", keep: bool = True, error: CriaError | None = None
) -> Updates:
    """Bring a browser to a plan's receipt; what stands in the way is said on it.

    Raises:
        CriaError: there is no plan, not even an estimate.
    """
    found: Findings | None = None
    asked, lean = True, error
    try:
        plan = replace(order.plan(screen), keep_sources=keep)
    except CriaError as problem:
        if order.known is None:
            raise
        plan, asked, error, lean = _estimated(screen, order, problem), False, problem, problem
    named = replace(plan, name=name or screen.free_name(plan.name))
    if error is None:
        try:
            named, found = screen.services.examine(named)
        except CriaError as problem:
            error = lean = problem
    if error is None:
        error = _block(screen, replace(named, keep_sources=True))
        lean = _block(screen, replace(named, keep_sources=False))
    sheet = Sheet(
        screen.services.hardware(), named.name, order.known, found, screen.services.stock.coming(named),
        screen.services.outlook(order.recipe), error, lean, asked,
    )  # fmt: skip
    card = screen.headed("setup.plan.heading", plan_receipt(named, sheet, screen.language))
    return {**screen.go(Place("plan", recipe=order.at)), screen.view.receipt: card}


def _estimated(screen: Screen, order: Order, problem: CriaError) -> Plan:
    """Return a plan by the recipe's own figures, where the sources cannot be asked."""
    try:
        return screen.services.estimate(order.known or order.recipe)
    except CriaError:
        raise problem from None


def begin(screen: Screen, order: Order, press: Press) -> str:
    """Start what is looked at, with what was typed; return the job.

    Raises:
        CriaError: it cannot be started; nothing was changed.
    """
    name = check_name(press.text("name"))
    wanted = replace(order.plan(screen), name=name, keep_sources=press.keep)
    return screen.services.set_up(wanted, choice=screen.choice)
