"""The small terminal command: check. It takes parsed flags and returns an exit code; and what all commands share.

Results go to stdout (one JSON document with ``--json``), everything else to stderr. Knows nothing about how the command
line is parsed or how steps work.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from backend.cli import speeds
from backend.hardware import Gpu, Hardware
from backend.services import Services
from backend.text import say
from backend.units import bytes_text

DONE, FAILED, INTERRUPTED = 0, 1, 130
_T = TypeVar("_T")


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
    text = json.dumps(_plain(value), ensure_ascii=False, indent=2)
    # A folder's name may hold bytes that are no text; JSON can only spell them.
    print(text if text.isascii() or _can_be_sent(text) else json.dumps(_plain(value), indent=2))


def print_listed(
    found: Sequence[_T], line: Callable[[_T], str], *, none: str, args: argparse.Namespace, services: Services
) -> int:
    """Print what was found, a line each or as one JSON document; where there is nothing ``none``, a key, says so."""
    if args.json:
        print_json(found)
        return DONE
    for one in found:
        print(line(one))
    if not found:
        print(say(services.settings.language, none), file=sys.stderr)
    return DONE


def _can_be_sent(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


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
        print_json({**_plain(found), "measured": speeds.measured(args, services)})
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
    for line in speeds.check_lines(args, services):
        print(line)
    return DONE
