"""RAM as this process may use it: the machine's, or less in a container that has a limit. Knows nothing about models.

A limit is of a control group or of any above it (man 7 cgroups); Linux ends a process that goes beyond it. What a group
holds counts cached files, which Linux drops before it ends anybody.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_GROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_NONE = 1 << 60  # bytes; older kernels write a number like this for "no limit"


@dataclass(frozen=True)
class Ram:
    """Bytes; None where the system does not tell."""

    total: int | None
    free: int | None


def ram() -> Ram:
    """Return what there is and what this process can still take before others have to give way."""
    try:
        memory = psutil.virtual_memory()
    except (OSError, RuntimeError):
        return Ram(None, None)
    total, free = memory.total, memory.available
    for limit, held in limits():
        total, free = min(total, limit), min(free, max(0, limit - held))
    return Ram(total, free)


def limits() -> Iterator[tuple[int, int]]:
    """Yield (limit, bytes that are held and not given up on demand) of every control group that has a limit."""
    for folder, (limit_name, used_name, files_name) in _folders():
        with contextlib.suppress(OSError, ValueError):  # the newer format writes "max" for no limit
            limit = int((folder / limit_name).read_text(encoding="ascii"))
            if limit < _NONE:
                yield limit, max(0, int((folder / used_name).read_text(encoding="ascii")) - _files(folder, files_name))


def _folders() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the folders of this process' groups, from its own upwards, with the names of their files. In a container
    the paths may be those outside of it: then only the topmost folder is there."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = _OWN.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            top, names = _GROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            top, names = _GROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = top / path.strip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(top) and folder.is_dir():
                yield folder, names


def _files(folder: Path, name: str) -> int:
    """Return the bytes of cached files that nobody has used lately."""
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0
