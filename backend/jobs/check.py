"""The plan of a check: one step that reads every file of a model again. Knows nothing about how that is done."""

from pathlib import Path

from backend.plan import MB, Plan, Step
from backend.text import Message

CHECK = "check"
_MEMORY = 120 * MB


def check_plan(folder: Path, *, name: str, size: int) -> Plan:
    """Return the plan of one step that checks a folder; ``name`` is one that a job may have."""
    title = {"en": folder.name.encode("utf-8", "replace").decode()}
    step = Step(CHECK, Message("models.check.title"), size, 0, _MEMORY)
    return Plan(
        recipe="",
        title=title,
        name=name,
        base=str(folder),
        delta=None,
        loras=(),
        template=None,
        context=None,
        questions=None,
        steps=(step,),
    )
