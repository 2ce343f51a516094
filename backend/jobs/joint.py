"""Downloading and merging at once: when that can be, and what the two steps share. Knows nothing about what they do."""

from dataclasses import dataclass, replace

from backend.jobs.context import Context
from backend.jobs.together import Halt
from backend.sources.pace import Bucket


@dataclass(frozen=True)
class Joint:
    """Downloading and merging at once: what both steps share, and what stops both."""

    context: Context
    halt: Halt

    def close(self) -> None:
        """Remove what only this needed."""
        if self.context.arriving is not None:
            self.context.arriving.close()


def make_joint(context: Context) -> Joint | None:
    """Return what downloading and merging at once needs; None where they come one after the other."""
    plan, options = context.plan, context.access.options
    if not plan.remotes or any(context.open(spec).packed for spec in plan.sources):
        return None
    halt = Halt(context.cancelled)
    arriving = context.make_arriving(halt, bucket=Bucket(options.rate))
    if context.lean is not None:
        context.lean.begin(arriving)
    return Joint(replace(context, cancelled=halt, arriving=arriving), halt)
