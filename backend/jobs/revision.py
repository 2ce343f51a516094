"""A stopped job asked for something slightly else: another name, fewer bytes on the disk, no try-out.

Knows nothing about journals or processes; what a job has done stays done because steps keep their ids.
"""

from dataclasses import replace
from pathlib import Path

from backend.errors import UsageError
from backend.plan import TRY, Plan
from backend.recipes import check_name


def revised(
    plan: Plan, models_dir: Path, *, name: str = "", keep_sources: bool | None = None, self_test: bool = True
) -> Plan:
    """Return a plan with these wishes; what is not mentioned stays as it was.

    Raises:
        UsageError: the name cannot be a folder's, or a model of that name is there.
    """
    if name:
        plan = replace(plan, name=check_name(name))
        if (models_dir / name).exists():
            raise UsageError("plan.exists", name=name)
    if keep_sources is not None:
        plan = replace(plan, keep_sources=keep_sources)
    if not self_test:
        plan = replace(plan, steps=tuple(step for step in plan.steps if step.id != TRY))
    return plan
