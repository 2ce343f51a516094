"""The terminal commands except chat: check, recipes, models, setup. Each takes parsed flags and returns an exit code.

Results go to stdout (one JSON document with ``--json``), everything else to stderr. Knows nothing about how the command
line is parsed or how steps work.
"""

import argparse
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backend.cli.draw import JobPrinter
from backend.errors import UsageError
from backend.hardware import Gpu, Hardware
from backend.jobs.view import JobState, JobView
from backend.library import ModelInfo
from backend.plan import NETWORK_RATE, Plan, check_plan
from backend.recipes import META, Recipe, custom_recipe, find_recipe
from backend.services import Services
from backend.text import plain_lines, say, tell
from backend.units import bytes_text

DONE, FAILED, INTERRUPTED = 0, 1, 130
_POLL_S = 0.2


def _plain(value: Any) -> Any:
    """Turn dataclasses, tuples and paths into what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def print_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    print(json.dumps(_plain(value), ensure_ascii=False, indent=2))


def _row(services: Services, key: str, value: str | None) -> None:
    language = services.settings.language
    print(f"{say(language, f'cli.check.{key}'):<22} {value or say(language, 'cli.check.unknown')}")


def _gpu_text(gpu: Gpu, language: str) -> str:
    users = ", ".join(f"{p.name or p.pid} ({p.user or '?'}, {bytes_text(p.bytes)})" for p in gpu.processes)
    text = say(language, "cli.check.gpu_line", name=gpu.name, free=gpu.free_bytes, total=gpu.total_bytes)
    return f"{text}  {users}".rstrip()


def _cuda_text(found: Hardware, language: str) -> str:
    unknown = say(language, "cli.check.unknown")
    return say(language, "cli.check.cuda_line", driver=found.cuda_driver or unknown, torch=found.torch_cuda or unknown)


def check(args: argparse.Namespace, services: Services) -> int:
    """Print what this machine has; what cannot be read is said to be unknown."""
    found, language = services.hardware(), services.settings.language
    if args.json:
        print_json(found)
        return DONE
    _row(services, "cpu", f"{found.cpu or '?'} ({found.cores or '?'})")
    _row(services, "ram", say(language, "cli.check.of", free=found.ram_free, total=found.ram_total))
    disk = say(language, "cli.check.of", free=found.disk_free, total=found.disk_total)
    _row(services, "disk", f"{disk}  {found.disk_path}")
    for gpu in found.gpus:
        _row(services, "gpu", f"{gpu.index}: {_gpu_text(gpu, language)}")
    if not found.gpus:
        why = say(language, "cli.check.no_gpu", why=found.gpu_problem or "-")
        _row(services, "gpu", say(language, "cli.check.mps") if found.mps else why)
    _row(services, "cuda", _cuda_text(found, language))
    _row(services, "system", f"{found.system}, Python {found.python}")
    for name, version in found.versions.items():
        print(f"{name:<22} {version or say(language, 'cli.check.missing')}")
    return DONE


def recipes(args: argparse.Namespace, services: Services) -> int:
    """List the recipes."""
    known, language = services.recipes(), services.settings.language
    if args.json:
        print_json(known)
        return DONE
    for recipe in known:
        print(f"{recipe.name:<20} {recipe.text(recipe.title, language)}")
    return DONE


def _model_line(model: ModelInfo, language: str) -> str:
    stops = {True: "cli.models.stops", False: "cli.models.runs_on", None: "cli.models.untested"}[model.stops]
    state = say(language, model.problem + ".say", name=model.name) if model.problem else say(language, stops)
    return f"{model.name:<24} {bytes_text(model.bytes):>9}  {model.template or '?':<14} {state}"


def models(args: argparse.Namespace, services: Services) -> int:
    """List the shelf, or take a model off it."""
    if args.delete:
        services.delete_model(args.delete)
        print(say(services.settings.language, "cli.models.deleted", name=args.delete), file=sys.stderr)
        return DONE
    shelf, language = services.models(), services.settings.language
    if args.json:
        print_json(shelf)
        return DONE
    for model in shelf:
        print(_model_line(model, language))
    if not shelf:
        print(say(language, "cli.models.none"), file=sys.stderr)
    return DONE


def wanted_recipe(args: argparse.Namespace, services: Services) -> Recipe:
    """Return the recipe that the flags name or describe.

    Raises:
        UsageError: both or neither of RECIPE and --base, a --base without --name, parts without --base, a rule for a
            delta that is not there, an unknown recipe.
    """
    parts = args.base or args.delta or args.lora
    if args.recipe and parts:
        raise UsageError("cli.recipe_and_base", recipe=args.recipe)
    if args.delta_rule != "auto" and not args.delta:
        raise UsageError("cli.rule_without_delta", rule=args.delta_rule)
    dtype = None if args.dtype == "source" else args.dtype
    if args.recipe:
        recipe = find_recipe(services.recipes(), args.recipe)
        return dataclasses.replace(
            recipe,
            template=args.template or recipe.template,
            dtype=dtype or recipe.dtype,
            layout=args.layout or recipe.layout,
        )
    if not args.base:
        raise UsageError("cli.no_base" if parts else "cli.no_recipe")
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


def _print_plan(plan: Plan, services: Services) -> None:
    language, found = services.settings.language, services.hardware()
    print(say(language, "cli.plan.title", name=plan.name, folder=str(services.settings.models_dir / plan.name)))
    for one in services.coming(plan):
        print("- " + say(language, "fetchui.from_line", source=one.source, size=one.bytes, there=one.there,
                         host=one.hosts[0], version=one.version or "-"))  # fmt: skip
    for number, step in enumerate(plan.steps, 1):
        print(f"{number}. {tell(language, step.title)}")
        print("   " + say(language, "cli.plan.step", reads=step.reads, writes=step.writes, memory=step.memory,
                          seconds=step.seconds))  # fmt: skip
    print(say(language, "cli.plan.disk", need=plan.disk_bytes, free=found.disk_free))
    print(say(language, "cli.plan.memory", need=plan.memory_bytes, free=found.ram_free))
    print(say(language, "cli.plan.total", download=plan.download_bytes, seconds=plan.seconds))
    if plan.download_bytes:
        print(say(language, "cli.plan.guessed", rate=NETWORK_RATE))


def setup(args: argparse.Namespace, services: Services) -> int:
    """Set a model up, or show the plan; a set-up of that name that was interrupted goes on where it stopped."""
    language = services.settings.language
    recipe = wanted_recipe(args, services)
    plan = services.plan(recipe, name=args.name, self_test=not args.no_self_test)
    if args.dry_run:
        return _dry_run(plan, services, json_wanted=args.json)
    if args.recipe and (there := _made_already(plan, services)):
        print(say(language, "cli.setup.there", name=plan.name), file=sys.stderr)
        if args.json:
            print_json(there)
        return DONE
    view = follow(_started(plan, services), services)
    if args.json:
        print_json(view)
    return _ending(view, services)


def _dry_run(plan: Plan, services: Services, *, json_wanted: bool) -> int:
    """Show the plan and what the sources tell; what would stop the set-up is an error here too."""
    language = services.settings.language
    exact, found = services.examine(plan)
    if json_wanted:
        print_json({**exact.to_json(), "found": found})
    else:
        _print_plan(exact, services)
        for note in found.notes if found else ():
            print(f"- {tell(language, note)}")
    check_plan(exact, services.hardware(), services.settings.models_dir)
    return DONE


def _made_already(plan: Plan, services: Services) -> ModelInfo | None:
    """Return the model on the shelf that this very recipe made, so that a script may set it up twice."""
    for model in services.models():
        same = (model.name, model.recipe) == (plan.name, plan.recipe) and plan.template in {None, model.template}
        if same and not model.problem:
            return model
    return None


def _started(plan: Plan, services: Services) -> str:
    """Return the job that carries out this plan: the one that runs, the one that was stopped, or a new one."""
    language = services.settings.language
    for view in services.jobs.views():
        if view.model != plan.name or view.state is JobState.DONE or not _same(services.jobs.plan(view.id), plan):
            continue
        if view.state in {JobState.RUNNING, JobState.QUEUED}:
            print(say(language, "cli.setup.running", job=view.id), file=sys.stderr)
        else:
            print(say(language, "cli.setup.resuming", job=view.id), file=sys.stderr)
            services.jobs.resume(view.id)
        return view.id
    return services.set_up(plan)


def _same(left: Plan, right: Plan) -> bool:
    """Tell whether two plans mean the same work; the figures of their steps are guesses and do not count, nor does it
    matter which server told of a version.
    """
    versions = [[(one.spec, one.listing.revision) for one in plan.remotes] for plan in (left, right)]
    steps = [[step.id for step in plan.steps] for plan in (left, right)]
    bare = [dataclasses.replace(plan, steps=(), remotes=()) for plan in (left, right)]
    return all(one == other for one, other in (bare, versions, steps))


def follow(job: str, services: Services) -> JobView:
    """Show a job until it ends. Ctrl-C cancels it and waits until it has stopped cleanly; a second one leaves it."""
    language, presses = services.settings.language, list[int]()
    printer = JobPrinter(language)

    def stop(number: int, _: object) -> None:
        if presses:
            raise KeyboardInterrupt
        presses.append(number)
        services.jobs.cancel(job)

    before = signal.signal(signal.SIGINT, stop)
    try:
        while True:
            if presses:
                printer.say_once(say(language, "fetchui.go_on"))
            view = services.jobs.view(job)
            printer.show(view)
            if view.state not in {JobState.RUNNING, JobState.QUEUED}:
                return view
            time.sleep(_POLL_S)
    finally:
        signal.signal(signal.SIGINT, before)
        printer.close()


def _ending(view: JobView, services: Services) -> int:
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
