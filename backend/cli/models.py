"""The terminal's ``models`` command: the shelf with what is wrong with it, and everything that may be done to a model.

Results go to stdout (one JSON document with ``--json``), everything else to stderr. Knows nothing about how a folder is
looked into, repaired or checked.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from backend.cli.commands import DONE, FAILED, INTERRUPTED, print_json
from backend.cli.draw import JobPrinter
from backend.cli.setup import ending, follow
from backend.errors import CriaError, UsageError
from backend.fit.result import Verdict
from backend.jobs.shelf import Shelved
from backend.jobs.view import JobState, JobView
from backend.library import ModelInfo
from backend.library.condition import Way
from backend.recipes import check_name, custom_recipe
from backend.services import Services
from backend.text import plain_lines, say, tell
from backend.units import bytes_text

_POLL_S = 0.2
_NAMED = 8  # files in a line


def models(args: argparse.Namespace, services: Services) -> int:
    """List the shelf, or do what a flag says.

    Raises:
        CriaError: it cannot be done.
    """
    if not args.export and (args.layout or args.lora or args.copy_dtype or (args.name is not None and not args.adopt)):
        raise UsageError("models.only_export")
    if args.template and not args.repair:
        raise UsageError("models.only_repair")
    wanted = next((name for name in _DOING if getattr(args, name)), None)
    return _DOING[wanted](args, services) if wanted else _list(args, services)


def _list(args: argparse.Namespace, services: Services) -> int:
    shelf, language = services.shelf.shelved(wait=True), services.settings.language
    if args.json:
        print_json([_row(one, services) for one in shelf])
        return DONE
    for one in shelf:
        worst, *others = _wrong(one, language)
        print(_line(one.info, worst, _fits(one, services), language))
        for other in others:
            print(f"  - {other}")
    if not shelf:
        print(say(language, "cli.models.none"), file=sys.stderr)
    return DONE


def _wrong(one: Shelved, language: str) -> list[str]:
    """Return what is wrong with a model. First what voids anything that was seen of it before, empty for nothing."""
    info, faults = one.info, one.found.faults if one.found else ()
    mends = [tell(language, fault.say) for fault in faults if fault.way is Way.MEND]
    damage = [tell(language, fault.say) for fault in faults if fault.way is not Way.MEND]
    if info.problem and (info.problem == "library.meta_layout" or not damage):
        damage = [say(language, info.problem + ".say", name=info.name)]
    if info.checked is not None and info.checked.bad:
        bad = info.checked.bad
        damage.append(
            say(language, "models.damaged.say", name=info.name, count=len(bad), files=", ".join(bad[:_NAMED]))
        )
    return [*(damage or [""]), *mends]


def _fits(one: Shelved, services: Services) -> Verdict | None:
    """Return how a model would run here, where that can be told."""
    broken = one.info.problem or any(fault.way is not Way.MEND for fault in (one.found.faults if one.found else ()))
    try:
        return None if broken else services.outlook(one.info).verdict
    except CriaError:
        return None


def _row(one: Shelved, services: Services) -> Mapping[str, Any]:
    """Return one model as JSON has it: its figures, how it fits and what it held when it ran, what is wrong in words,
    what is done with it now.
    """
    info, found, language = one.info, one.found, services.settings.language
    faults = [
        {
            "key": fault.say.key.removesuffix(".say"),
            "say": tell(language, fault.say),
            "hint": tell(language, fault.hint) if fault.hint else None,
            "way": fault.way.value or None,
        }
        for fault in (found.faults if found else ())
    ]
    known = {name: getattr(info, name) for name in ModelInfo.__dataclass_fields__}
    measured = found.parameters if found else None
    return {
        **known,
        "parameters": info.parameters or measured,
        "dtype": info.dtype or (found.dtype if found else None),
        "fits": _fits(one, services),
        "memory": services.prospects.fitting.held(info.name),
        "faults": faults,
        "loaded": one.is_loaded,
        "checking": one.is_checking,
        "needed_by": one.users,
    }


def _line(model: ModelInfo, damage: str, fits: Verdict | None, language: str) -> str:
    stops = {True: "cli.models.stops", False: "cli.models.runs_on", None: "cli.models.untested"}[model.stops]
    name = plain_lines(model.name)
    here = f"; {say(language, f'fit.{fits}')}" if fits and not damage else ""
    said = (damage or say(language, stops)) + here
    return f"{name:<24} {bytes_text(model.bytes):>9}  {model.template or '?':<14} {said}"


def _say(services: Services, key: str, **values: Any) -> None:
    print(say(services.settings.language, key, **values), file=sys.stderr)


def _shown(args: argparse.Namespace, services: Services, name: str) -> int:
    """Print the model that was changed, where a document is wanted."""
    if args.json:
        every = services.shelf.shelved(wait=True)
        print_json(next((_row(one, services) for one in every if one.info.name == name), None))
    return DONE


def _delete(args: argparse.Namespace, services: Services) -> int:
    services.delete_model(args.delete)
    _say(services, "cli.models.deleted", name=args.delete)
    return DONE


def _rename(args: argparse.Namespace, services: Services) -> int:
    old, new = args.rename
    services.shelf.rename(old, new)
    _say(services, "models.mended.renamed", old=old, new=new)
    return _shown(args, services, new)


def _repair(args: argparse.Namespace, services: Services) -> int:
    for note in services.shelf.repair(args.repair, template=args.template):
        print(f"  {tell(services.settings.language, note)}", file=sys.stderr)
    _say(services, "models.mended.done", name=args.repair)
    left = next((one.found for one in services.shelf.shelved(wait=True) if one.info.name == args.repair), None)
    if left is not None and left.faults:
        _say(services, "models.mended.left", count=len(left.faults))
    return _shown(args, services, args.repair)


def _undo(args: argparse.Namespace, services: Services) -> int:
    services.shelf.undo(args.undo)
    _say(services, "models.mended.undone", name=args.undo)
    return _shown(args, services, args.undo)


def _drop(args: argparse.Namespace, services: Services) -> int:
    freed = services.shelf.drop(args.drop_converted)
    _say(services, "quantised.dropped", name=args.drop_converted, bytes=freed)
    return _shown(args, services, args.drop_converted)


def _adopt(args: argparse.Namespace, services: Services) -> int:
    """Put a ready-made GGUF on the shelf; from another disk it is copied, which takes its time."""
    name, shown = "", 0.0
    if args.name is not None:  # "" would mean: after the file
        check_name(args.name.strip())
    for step in services.shelf.adopt(args.adopt, args.name or ""):
        if isinstance(step, str):
            name = step
        elif time.monotonic() - shown > 1.0 or step.done == step.total:
            shown = time.monotonic()
            told = tell(services.settings.language, step.note) if step.note else ""
            print(f"  {told}: {bytes_text(step.done)} / {bytes_text(step.total)}", file=sys.stderr)
    _say(services, "ggufready.adopted", name=name)
    return _shown(args, services, name)


def _verify(args: argparse.Namespace, services: Services) -> int:
    """Read every file of a model again; Ctrl-C stops it."""
    job = services.shelf.check(args.verify)
    view = _watched(args.verify, job, services)
    info = services.shelf.find(args.verify).info
    if args.json:
        error = view.error.to_json() if view.error else None
        print_json({"name": info.name, "state": view.state, "checked": info.checked, "error": error})
    if view.state is JobState.DONE and info.checked is not None:
        files, noted = info.checked.files, info.checked.noted
        if noted < files or not files:
            _say(services, "models.check.done", name=info.name, files=files - noted)
        if noted:
            _say(services, "models.check.noted", name=info.name, noted=noted)
    elif view.error is not None:
        print(view.error.text(services.settings.language), file=sys.stderr)
    return {JobState.DONE: DONE, JobState.CANCELLED: INTERRUPTED}.get(view.state, FAILED)


def _watched(name: str, job: str, services: Services) -> JobView:
    shelf, printer = services.shelf, JobPrinter(services.settings.language)
    before = signal.signal(signal.SIGINT, lambda *_: shelf.cancel_check(name))
    try:
        while (view := shelf.watch(job)).state.is_active:
            printer.show(view)
            time.sleep(_POLL_S)
        printer.show(view)
        return view
    finally:
        signal.signal(signal.SIGINT, before)
        printer.close()


def _export(args: argparse.Namespace, services: Services) -> int:
    """Make a copy that differs: in Meta's layout, with LoRAs folded in, or with other numbers; a set-up like any."""
    found = services.shelf.find(args.export)
    if found.info.ready:
        raise UsageError("ggufready.no_export", name=found.info.name)
    if not (args.layout or args.lora or args.copy_dtype):
        raise UsageError("models.nothing_to_export", name=found.info.name)
    if not args.name:
        raise UsageError("models.no_name")
    recipe = custom_recipe(
        args.name,
        base=str(found.info.folder),
        loras=args.lora,
        dtype=args.copy_dtype,
        layout=args.layout or "huggingface",
    )
    view = follow(services.set_up(services.plan(recipe)), services)
    if args.json:
        print_json(view)
    return ending(view, services)


_DOING: Mapping[str, Callable[[argparse.Namespace, Services], int]] = {
    "delete": _delete,
    "rename": _rename,
    "repair": _repair,
    "undo": _undo,
    "drop_converted": _drop,
    "verify": _verify,
    "export": _export,
    "adopt": _adopt,
}
