"""Was it memory? Tells a lack of memory from other failures, by type and by words, without importing what failed.

Knows nothing about what to do about it.
"""

import contextlib
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from backend.errors import CriaError, EngineError, MachineError

# torch on a GPU and on a CPU, NumPy, Python, C++, C and llama.cpp. Words are all that crosses threads and processes.
_WORDS = (
    "out of memory", "can't allocate memory", "not enough memory", "unable to allocate", "outofmemoryerror",
    "memoryerror", "bad_alloc", "cannot allocate memory", "failed to allocate", "failed to map segment",
    "can't start new thread",
)  # fmt: skip
_KILL = 9  # SIGKILL, which Windows has no name for
_MEMORY_KEYS = frozenset((
    "ops.out_of_memory", "engine.no_room_ram", "engine.no_room_gpu", "engine.no_room_cap", "engine.no_room_cache",
    "starved.killed", "starved.ended", "starved.wanted",
))  # fmt: skip
# "Tried to allocate 2.00 GiB", "you tried to allocate 4096 bytes", "failed to allocate buffer of size 4096"
_WANTED = re.compile(
    r"allocate (?:a )?(?:\w+ )?(?:buffer of size (?P<size>\d+)|(?P<count>\d+(?:\.\d+)?) ?(?P<unit>[KMGT]i?B|bytes))\b",
    re.IGNORECASE,
)
_UNITS = {"bytes": 1} | {
    f"{letter}{form}": base**power
    for power, letter in enumerate("kmgt", 1)
    for form, base in (("ib", 1024), ("b", 1000))
}
_STAMP = re.compile(r"^[\d.]+ [A-Z] +")  # of a line of llama.cpp's log
_VAGUE = frozenset(("gguf.refused", "engine.computation_failed", "error.unexpected"))
_SILENT = frozenset(("engine.hung", "engine.stalled", "engine.no_start"))
_COUNTERS = Path("/proc/vmstat")


def is_out_of_memory(problem: BaseException | str) -> bool:
    """Tell whether an exception, or what is left of one as text, means that memory ran out."""
    if isinstance(problem, MemoryError):
        return True
    said = problem if isinstance(problem, str) else f"{type(problem).__name__} {problem}"
    return any(words in said.lower() for words in _WORDS)


def out_of_memory(problem: BaseException | str) -> MachineError:
    """Return the error to show for a lack of memory."""
    what = problem if isinstance(problem, str) else str(problem) or type(problem).__name__
    wanted = _WANTED.search(what)
    if wanted is not None:  # the rest is of no use to anybody who does not know the library
        size = wanted["size"] or float(wanted["count"]) * _UNITS[wanted["unit"].lower()]
        return MachineError("starved.wanted", bytes=round(float(size)))
    return MachineError("ops.out_of_memory", what=what[:300])


def computation_failed(problem: BaseException | str) -> CriaError:
    """Return the error to show for a computation that failed: for want of memory, or otherwise."""
    if is_out_of_memory(problem):
        return out_of_memory(problem)
    what = problem if isinstance(problem, str) else str(problem) or type(problem).__name__
    return EngineError("engine.computation_failed", what=what[:300])


def ended_by(code: int, log: str, *, killed_before: int) -> EngineError:
    """Return why a process ended with an exit code, or by a signal (less than zero): for want of memory, or otherwise.

    ``log`` is what it said last; ``killed_before``: ``killed_processes`` when it began.
    """
    if code == -_KILL and killed_processes() > killed_before:
        return EngineError("starved.killed", log=log)
    if code != -_KILL and is_out_of_memory(log):
        return EngineError("starved.ended", log=log)
    if code < 0:
        return EngineError("engine.killed", signal=_signal_name(-code), log=log)
    return EngineError("engine.died", code=code, log=log)


def killed_processes() -> int:
    """Return how many processes Linux has ended since it started because memory had run out; 0 where nobody counts."""
    with contextlib.suppress(OSError, ValueError):
        for line in _COUNTERS.read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def explained(error: CriaError, log: Sequence[str]) -> CriaError:
    """Return the error that a failed engine reports, or a better one: llama.cpp itself does not say why it gives up
    other than in its log, whose last lines are ``log``."""
    if error.key in _VAGUE:
        for line in filter(is_out_of_memory, log):  # the first one comes closest to the cause
            return out_of_memory(_STAMP.sub("", line))
    return error


def memory_was_short(error: CriaError) -> bool:
    """Tell whether less memory would have helped. SIGKILL from nobody we know is what Linux does when RAM runs out."""
    if error.key in _SILENT and is_out_of_memory(str(error.params.get("log", ""))):
        return True
    return error.key in _MEMORY_KEYS or (error.key == "engine.killed" and error.params.get("signal") == "SIGKILL")
