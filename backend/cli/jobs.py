"""The terminal's ``jobs`` command: every set-up, from wherever it was started, and pausing, resuming, cancelling it.

Knows nothing about how a job does its work.
"""

import argparse
import sys

from backend.cli.commands import DONE, print_listed
from backend.cli.setup import ending, follow
from backend.errors import JobError
from backend.jobs.view import JobState, JobView
from backend.services import Services
from backend.text import say, tell


def jobs(args: argparse.Namespace, services: Services) -> int:
    """List the set-ups, or watch, pause, resume, cancel or delete one.

    Raises:
        JobError: there is none of that id or name, or it is not in a state for that.
    """
    language = services.settings.language
    if args.watch:
        return ending(follow(_find(args.watch, services).id, services), services)
    for wanted, act, said in (
        (args.pause, services.jobs.pause, "jobs.paused"),
        (args.resume, services.resume, "jobs.resumed"),
        (args.delete, services.jobs.delete, "jobs.deleted"),
    ):
        if wanted:
            view = _find(wanted, services)
            act(view.id)
            print(say(language, said, name=view.model, job=view.id), file=sys.stderr)
            return DONE
    if args.cancel:
        view = _find(args.cancel, services)
        freed = services.cancel(view.id)
        print(say(language, "jobs.cancelled", name=view.model, bytes=freed), file=sys.stderr)
        return DONE
    found = services.jobs.views()
    return print_listed(found, lambda view: _line(view, language), none="jobs.none", args=args, services=services)


def _find(wanted: str, services: Services) -> JobView:
    """Return a job by its id, or by its model's name the newest unfinished one of it.

    Raises:
        JobError: there is none.
    """
    views = services.jobs.views()
    unfinished = [view for view in views if view.state is not JobState.DONE]
    found = [view for view in views if view.id == wanted] + [view for view in unfinished if view.model == wanted]
    if not found:
        raise JobError("job.unknown", job=wanted[:128])
    return found[0]


def _line(view: JobView, language: str) -> str:
    state = say(language, f"setup.state.{view.state}")
    left = say(language, "jobs.left", bytes=view.leftover_bytes) if view.leftover_bytes else ""
    problem = tell(language, view.error.message) if view.error is not None else ""
    head = f"{view.id}  {view.model:<24} {state:<12} {view.fraction:>4.0%}"
    return "  ".join(part for part in (head, left, problem) if part)
