"""Whether a plan can end well on this machine now: name, disk, memory. Knows nothing of how plans are made or run."""

from pathlib import Path

from backend.errors import MachineError, UsageError
from backend.hardware import Hardware
from backend.plan.step import MB
from backend.plan.value import Plan
from backend.recipes import check_name
from backend.text import Value

DISK_RESERVE = 200 * MB


def check_plan(plan: Plan, hardware: Hardware, models_dir: Path) -> None:
    """Refuse a plan that cannot end well on this machine now.

    Raises:
        UsageError: a name that cannot be a model's, or a model of that name is there already.
        MachineError: too little disk or memory; the message has both numbers.
    """
    if (models_dir / check_name(plan.name)).exists():
        raise UsageError("plan.exists", name=plan.name)
    need, lean = plan.needed_disk, plan.lean_disk_bytes
    if hardware.disk_free is not None and hardware.disk_free < need + DISK_RESERVE:
        room: dict[str, Value] = {
            "need": need,
            "spare": DISK_RESERVE,
            "free": hardware.disk_free,
            "folder": str(models_dir),
        }
        if lean + DISK_RESERVE <= hardware.disk_free:
            raise MachineError("lean.disk", lean=lean, **room)
        raise MachineError("plan.disk", **room)
    if hardware.ram_free is not None and hardware.ram_free < plan.must_have_memory:
        raise MachineError("plan.memory", need=plan.must_have_memory, free=hardware.ram_free)
