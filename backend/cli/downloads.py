"""The terminal's ``downloads`` command: what was fetched and is still on the disk, and being rid of it.

Knows nothing about how anything is fetched.
"""

import argparse
import sys

from backend.cli.commands import DONE, print_listed
from backend.jobs.stock import Stored
from backend.services import Services
from backend.text import say
from backend.units import bytes_text


def downloads(args: argparse.Namespace, services: Services) -> int:
    """List the downloads, or delete one, or all that no set-up needs.

    Raises:
        SourceError: there is none of that name, or a set-up that runs needs it.
    """
    language = services.settings.language
    if args.delete:
        freed = services.stock.delete(args.delete)
        print(say(language, "fetchui.deleted", name=args.delete, bytes=freed), file=sys.stderr)
        return DONE
    if args.delete_unused:
        print(say(language, "fetchui.freed", bytes=services.stock.delete_unused()), file=sys.stderr)
        return DONE
    found = services.stock.all()
    return print_listed(found, lambda one: _line(one, language), none="fetchui.none", args=args, services=services)


def _line(one: Stored, language: str) -> str:
    return f"{bytes_text(one.bytes):>9}  {one.name}  {_state(one, language)}"


def _state(one: Stored, language: str) -> str:
    state = say(language, "fetchui.complete" if one.is_complete else "fetchui.partial")
    if one.users:
        return f"{state}, {say(language, 'fetchui.used_by', models=', '.join(one.users))}"
    return f"{state}, {say(language, 'fetchui.busy' if one.is_busy else 'fetchui.unused')}"
