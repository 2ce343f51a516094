"""A real worker process with imaginary steps, small enough to be quick. For tests only.

The template ``slow`` makes it stand still in the middle of merging, the first time, until it is stopped or killed.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from backend.errors import Cancelled
from backend.events import Event, Log, Progress
from backend.jobs.steps import PUBLISH, Context
from backend.jobs.view import Sample
from backend.jobs.worker import run
from backend.text import Message

TICKS, HELD_AT = 20, 5
_TICK_S = 0.01


def tick(context: Context, name: str, *, holds: bool = False) -> Iterator[Event]:
    """Write one byte a tick to a file of the partial folder, going on where an earlier run stopped."""
    context.partial.mkdir(parents=True, exist_ok=True)
    path, held = context.partial / name, context.partial / "held"
    holds = holds and not held.exists()
    while (done := path.stat().st_size if path.exists() else 0) < TICKS:
        while holds and done >= HELD_AT and not context.cancelled():
            held.touch()
            time.sleep(_TICK_S)
            yield Progress(done, TICKS, Message("sources.reading", {"file": name}))
            if os.getppid() == 1:  # whoever started it is gone
                sys.exit(1)
        if context.cancelled():
            raise Cancelled("job.cancelled")
        time.sleep(_TICK_S)
        with path.open("ab") as file:
            file.write(b"x")
        yield Progress(done + 1, TICKS, Message("sources.reading", {"file": name}))


def fetch(context: Context) -> Iterator[Event]:
    yield Log(Message("sources.checked", {"source": "base", "count": 3}))
    yield from tick(context, "fetched")


def merge(context: Context) -> Iterator[Event]:
    if context.plan.template == "disk-full":
        raise OSError(28, "No space left on device", str(context.partial))
    if context.plan.template == "bug":
        raise ZeroDivisionError("secret detail")
    yield from tick(context, "merged", holds=context.plan.template == "slow")


def say_hello(context: Context) -> Iterator[Event]:
    context.sample = Sample("Hello!", "Hi.", True)
    yield Progress(1, 1)


def done(context: Context) -> Iterator[Event]:
    context.partial.rename(context.models_dir / context.plan.name)
    yield Log(Message("steps.on_shelf", {"name": context.plan.name}))


NOTHING = {"finish": lambda _: iter(()), "verify": lambda _: iter(())}

if __name__ == "__main__":
    table = {"fetch": fetch, "merge": merge, **NOTHING, "try": say_hello, PUBLISH: done}
    sys.exit(run(Path(sys.argv[1]), Path(sys.argv[2]), table=table))
