"""A chat template rendered in a process of its own, which has neither time nor memory to do harm, nor files to write.

A template comes with a model and is somebody's program: it may loop for ever or build a string of gigabytes. Threads
cannot be stopped; processes can, and this one ends itself should nobody be left to do it. Started as ``python -m``: one
JSON line in (template, variables, messages, seconds), one out. Knows nothing about tokens. What templates may expect is
what transformers gives them: the sandbox of jinja2 with ``break`` and ``continue``, blocks trimmed,
``raise_exception``, ``strftime_now``, a plain ``tojson``, and ``{% generation %}`` blocks, which only training needs.
"""

import contextlib
import json
import resource
import signal
import sys
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 1 << 30  # bytes of address space: the interpreter takes a tenth of it
MOST_TEXT = 16_000_000  # characters of a prompt


class _Generation(Extension):
    """Lets ``{% generation %}`` pass for what is in it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the statements up to ``{% endgeneration %}``."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


@cache
def _compiled(text: str) -> Template:
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    return made.from_string(text)


def render(asked: dict[str, Any]) -> dict[str, str]:
    """Return ``text``, or ``error`` with the template's own words."""
    try:
        found = _compiled(asked["template"]).render(
            messages=asked["messages"], tools=None, documents=None, add_generation_prompt=True, **asked["variables"]
        )
    except Exception as problem:  # noqa: BLE001 - the template is the model's own program: anything may come
        return {"error": str(problem)[:300] or type(problem).__name__}
    return {"text": found} if len(found) <= MOST_TEXT else {"error": f"> {MOST_TEXT}"}


def main() -> None:
    """Answer until standard input closes."""
    with contextlib.suppress(ValueError, OSError):  # macOS refuses some of them: time is bounded all the same
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, asked["seconds"])  # ends the process, also in the midst of a computation
        answer = json.dumps(render(asked))
        sys.stdout.buffer.write(answer.encode("ascii") + b"\n")
        sys.stdout.buffer.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
