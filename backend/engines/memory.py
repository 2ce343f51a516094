"""Was it memory? Tells a lack of memory from other failures, by type and by words, without importing what failed.

Knows nothing about what to do about it.
"""

from backend.errors import CriaError, EngineError, MachineError

# torch on a GPU and on a CPU, and NumPy. The words are all that crosses threads and processes.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "unable to allocate", "outofmemoryerror")
_MEMORY_KEYS = frozenset(
    ("ops.out_of_memory", "engine.no_room_ram", "engine.no_room_gpu", "engine.no_room_cap", "engine.no_room_cache")
)


def is_out_of_memory(problem: BaseException | str) -> bool:
    """Tell whether an exception, or what is left of one as text, means that memory ran out."""
    if isinstance(problem, MemoryError):
        return True
    said = problem if isinstance(problem, str) else f"{type(problem).__name__} {problem}"
    return any(words in said.lower() for words in _WORDS)


def out_of_memory(problem: BaseException | str) -> MachineError:
    """Return the error to show for a lack of memory."""
    what = problem if isinstance(problem, str) else str(problem) or type(problem).__name__
    return MachineError("ops.out_of_memory", what=what[:300])


def computation_failed(problem: BaseException | str) -> CriaError:
    """Return the error to show for a computation that failed: for want of memory, or otherwise."""
    if is_out_of_memory(problem):
        return out_of_memory(problem)
    what = problem if isinstance(problem, str) else str(problem) or type(problem).__name__
    return EngineError("engine.computation_failed", what=what[:300])


def memory_was_short(error: CriaError) -> bool:
    """Tell whether less memory would have helped. SIGKILL from nobody we know is what Linux does when RAM runs out."""
    return error.key in _MEMORY_KEYS or (error.key == "engine.killed" and error.params.get("signal") == "SIGKILL")
