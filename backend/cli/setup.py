"""The terminal command that sets a model up: from flags to a plan, to a job, to what came of it.

Results go to stdout (one JSON document with ``--json``), everything else to stderr. Knows nothing about how the command
line is parsed, how plans are made or how steps work.
"""

import argparse
import dataclasses
import signal
import sys
import time
from collections.abc import Iterator

from backend.cli.commands import DONE, FAILED, INTERRUPTED, print_json
from backend.cli.draw import JobPrinter
from backend.errors import SourceError, UsageError
from backend.jobs.examination import Findings
from backend.jobs.view import JobState, JobView
from backend.library import ModelInfo
from backend.plan import Plan, check_plan
from backend.recipes import META, Recipe, custom_recipe, find_recipe, typed_lora
from backend.services import Services
from backend.sources.remote import is_nobody_there
from backend.text import plain_lines, say, tell

_POLL_S = 0.2


def wanted_recipe(args: argparse.Namespace, services: Services) -> Recipe:
    """Return the recipe that the flags name or describe. Beside a recipe's name, sources take the place of its own.

    Raises:
        UsageError: neither RECIPE nor --base, a --base without --name, parts without --base, a rule for a delta that
            is not there, an unknown recipe, or sources that have no place in it.
    """
    dtype = None if args.copy_dtype == "source" else args.copy_dtype
    if args.recipe:
        return _changed(_known(args.recipe, services), args, dtype)
    if args.delta_rule != "auto" and not args.delta:
        raise UsageError("cli.rule_without_delta", rule=args.delta_rule)
    if not args.base:
        raise UsageError("cli.no_base" if args.delta or args.lora else "cli.no_recipe")
    if not args.name:
        raise UsageError("cli.no_name")
    return custom_recipe(
        args.name,
        base=args.base,
        delta=args.delta,
        loras=args.lora,
        template=args.template,
        rule=args.delta_rule,
        dtype=dtype,
        layout=args.layout or "huggingface",
    )


def _known(name: str, services: Services) -> Recipe:
    """Return a recipe by name. Where there is none, files that are no recipes are told about: it may be in one."""
    try:
        return find_recipe(services.recipes(), name)
    except UsageError:
        for problem in services.recipe_problems():
            print(problem.text(services.settings.language), file=sys.stderr)
        raise


def _changed(recipe: Recipe, args: argparse.Namespace, dtype: str | None) -> Recipe:
    mine = recipe.with_sources(base=args.base, delta=args.delta, loras=[typed_lora(one) for one in args.lora])
    if args.delta_rule != "auto":
        if mine.delta is None:
            raise UsageError("cli.rule_without_delta", rule=args.delta_rule)
        mine = dataclasses.replace(mine, delta=dataclasses.replace(mine.delta, rule=args.delta_rule))
    return dataclasses.replace(
        mine,
        template=args.template or recipe.template,
        dtype=dtype or recipe.dtype,
        layout=args.layout or recipe.layout,
    )


def setup(args: argparse.Namespace, services: Services) -> int:
    """Set a model up, or show the plan; a set-up of that name that was interrupted goes on where it stopped."""
    language = services.settings.language
    recipe = wanted_recipe(args, services)
    if args.dry_run:
        return _dry_run(recipe, args, services)
    plan = services.plan(recipe, name=args.name, self_test=not args.no_self_test)
    plan = dataclasses.replace(plan, keep_sources=not args.no_keep_sources)
    for one in plan.instead:
        print(one.text(language), file=sys.stderr)
    if args.recipe and (there := _made_already(plan, services)):
        print(say(language, "cli.setup.there", name=plan.name), file=sys.stderr)
        if args.json:
            print_json(there)
        return DONE
    view = follow(_started(plan, services), services)
    if args.json:
        print_json(view)
    return ending(view, services)


def _dry_run(recipe: Recipe, args: argparse.Namespace, services: Services) -> int:
    """Show the plan and what the sources tell; what would stop the set-up is an error here too.

    Where no server can be asked, that is an estimate; where none gives what is needed, an estimate and then the error.
    """
    plan, found, problem = _planned(recipe, args, services)
    if args.json:
        error = problem.to_json() if problem else None
        print_json({**plan.to_json(), "found": found, "figures": plan.figures(), "problem": error})
    else:
        _print_plan(plan, recipe, services)
        for note in found.notes if found else ():
            print(f"- {tell(services.settings.language, note)}")
    if problem is not None:
        if not is_nobody_there(problem):
            raise problem
        print(tell(services.settings.language, problem.message), file=sys.stderr)
    check_plan(plan, services.hardware(), services.settings.models_dir)
    return DONE


def _planned(
    recipe: Recipe, args: argparse.Namespace, services: Services
) -> tuple[Plan, Findings | None, SourceError | None]:
    """Return a plan as exact as can be told now, what its sources tell, and why it is only an estimate."""
    self_test, problem = not args.no_self_test, None
    try:
        plan = services.plan(recipe, name=args.name, self_test=self_test)
    except SourceError as found:
        problem = found
        try:
            plan = services.estimate(recipe, name=args.name, self_test=self_test)
        except SourceError:
            raise problem from None  # nothing is known beforehand either
    plan = dataclasses.replace(plan, keep_sources=not args.no_keep_sources)
    return (plan, None, problem) if problem else (*services.examine(plan), None)


def _print_plan(plan: Plan, recipe: Recipe, services: Services) -> None:
    language, found = services.settings.language, services.hardware()
    print(say(language, "cli.plan.title", name=plan.name, folder=str(services.settings.models_dir / plan.name)))
    if plan.estimated:
        _print_parts(recipe, language)
    for one in services.stock.coming(plan):
        print("- " + say(language, "fetchui.from_line", source=one.source, size=one.bytes, there=one.there,
                         host=one.hosts[0], version=one.version or "-"))  # fmt: skip
    for other in plan.instead:
        print(f"- {other.text(language)}")
    for number, step in enumerate(plan.steps, 1):
        print(f"{number}. {tell(language, step.title)}")
        print("   " + say(language, "cli.plan.step", reads=step.reads, writes=step.writes, memory=step.memory,
                          seconds=step.seconds(plan.rates)))  # fmt: skip
    print(say(language, "cli.plan.disk", need=plan.needed_disk, free=found.disk_free))
    if plan.lean_disk_bytes < plan.disk_bytes:
        print(say(language, "lean.either", kept=plan.disk_bytes, lean=plan.lean_disk_bytes))
    print(say(language, "cli.plan.memory", need=plan.must_have_memory, free=found.ram_free))
    if plan.try_memory:
        print(say(language, "cli.plan.trying", need=plan.try_memory))
        if found.ram_free is not None and plan.try_memory > found.ram_free:
            print(say(language, "setup.plan.untried"))
    print(say(language, "cli.plan.total", download=plan.download_bytes, seconds=plan.seconds))
    if plan.estimated:
        print(say(language, "plan.shown.estimated"))
    if plan.download_bytes and not plan.rates.network_measured:
        print(say(language, "cli.plan.guessed", rate=plan.rates.network))


def _print_parts(recipe: Recipe, language: str) -> None:
    """Print what the recipe says of its sources, where no server told."""
    for part in recipe.parts:
        if part.bytes is None:
            print(f"- {part.source}")
        else:
            print("- " + say(language, "recipelist.part", source=part.source, size=part.bytes))
    if recipe.access:
        print("- " + say(language, "recipelist.access", page=recipe.access))


def _made_already(plan: Plan, services: Services) -> ModelInfo | None:
    """Return the model on the shelf that this very recipe made, so that a script may set it up twice."""
    for model in services.models():
        same = (model.name, model.recipe) == (plan.name, plan.recipe)
        as_wanted = plan.template in {None, model.template} and plan.dtype in {None, model.dtype}
        if same and as_wanted and not model.problem:
            return model
    return None


def _started(plan: Plan, services: Services) -> str:
    """Return the job that carries out this plan: the one that runs, the one that was stopped, or a new one."""
    language = services.settings.language
    for view in services.jobs.views():
        if view.model != plan.name or view.state is JobState.DONE or not services.jobs.plan(view.id).same_work(plan):
            continue
        if view.state.is_active:
            print(say(language, "cli.setup.running", job=view.id), file=sys.stderr)
        else:
            print(say(language, "cli.setup.resuming", job=view.id), file=sys.stderr)
            services.resume(view.id, keep_sources=None if plan.keep_sources else False)
        return view.id
    return services.set_up(plan)


def follow(job: str, services: Services) -> JobView:
    """Show a job until it ends. Ctrl-C cancels it and waits until it has stopped cleanly; a second one leaves it."""
    language, presses = services.settings.language, list[int]()
    printer = JobPrinter(language)

    def stop(number: int, _: object) -> None:
        if presses:
            raise KeyboardInterrupt
        presses.append(number)
        services.jobs.pause(job)

    before = signal.signal(signal.SIGINT, stop)
    try:
        while True:
            if presses:
                printer.say_once(say(language, "fetchui.go_on"))
            view = services.jobs.view(job)
            printer.show(view)
            if not view.state.is_active:
                return view
            time.sleep(_POLL_S)
    finally:
        signal.signal(signal.SIGINT, before)
        printer.close()


def ending(view: JobView, services: Services) -> int:
    """Say how a set-up ended; return the exit code."""
    language = services.settings.language
    if view.state is JobState.DONE:
        for line in _outcome(view, services):
            print(line, file=sys.stderr)
        return DONE
    if view.state is JobState.CANCELLED:
        print(say(language, "cli.setup.cancelled"), file=sys.stderr)
        return INTERRUPTED
    if view.error is not None:
        print(view.error.text(language), file=sys.stderr)
    else:
        print(say(language, "cli.setup.interrupted"), file=sys.stderr)
    return FAILED


def _outcome(view: JobView, services: Services) -> Iterator[str]:
    """Yield what a finished set-up has to say: how the try-out went, and what to do next."""
    language, sample = services.settings.language, view.sample
    if services.jobs.plan(view.id).layout == META:
        yield say(language, "cli.setup.written", folder=str(services.settings.models_dir / view.model))
        return
    if sample is None:
        yield say(language, "cli.setup.untried")
    else:
        yield say(language, "cli.setup.sample", question=sample.question)
        yield plain_lines(sample.answer)
        if not sample.stopped:
            yield say(language, "cli.setup.runs_on")
        if sample.cause is not None:
            yield tell(language, sample.cause)
    yield say(language, "cli.setup.done", name=view.model)
