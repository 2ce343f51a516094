"""How fast this machine's disk and memory are: measured once in a moment, a few dozen megabytes. Remembers nothing.

A disk has no one speed: writing is timed until it is durable, reading from the disk where the system lets a file's
pages go, else from its memory of them, which then is no measure and is left out.
"""

import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np

from backend.fit.measured import Speeds

_BLOCK, _BLOCKS = 24 << 20, 4  # 100 MB
_PATIENCE_S = 2.0  # a slow disk is known by fewer
_RAM, _ROUNDS, _THREADS = 256 << 20, 3, 4  # bytes larger than any cache
_MEMORY_S = 0.4  # whoever else computes now may stop for a moment
_NAME = ".speed"


def measure(folder: Path, *, now: Callable[[], float] = time.time) -> Speeds:
    """Measure the disk of a folder and the memory. Takes a second or two; leaves nothing behind.

    What cannot be measured (a full disk, say) is None.
    """
    busy = is_busy()
    write, read = _disk(folder)
    return Speeds(read, write, memory_rate(), now(), busy)


def is_busy() -> bool:
    """Tell whether there was more to compute than this machine has cores for, lately; not known on Windows."""
    if not hasattr(os, "getloadavg"):
        return False
    with contextlib.suppress(OSError):
        return os.getloadavg()[0] > (os.cpu_count() or 1)
    return False


def _disk(folder: Path) -> tuple[float | None, float | None]:
    path, block, done = folder / f"{_NAME}-{os.getpid()}", os.urandom(_BLOCK), 0  # some disks compress
    try:
        begun = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            while done < _BLOCKS and time.perf_counter() - begun < _PATIENCE_S:
                file.write(block)
                os.fsync(file.fileno())
                done += 1
        return _rate(_BLOCK * done, begun), _read(path)
    except OSError:
        return None, None
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _read(path: Path) -> float | None:
    if not hasattr(os, "posix_fadvise"):
        return None
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begun, place, done = time.perf_counter(), bytearray(8 << 20), 0
        while got := file.readinto(place):
            done += got
        return _rate(done, begun)


def memory_rate() -> float | None:
    """Return bytes a second that a few threads read together, the best of a few rounds."""
    try:
        numbers = np.ones(_RAM // 8, dtype=np.uint64)  # zeros would be one page, read again and again
    except MemoryError:
        return None
    threads = max(1, min(_THREADS, os.cpu_count() or 1))
    parts, best = np.array_split(numbers, threads), 0.0
    with ThreadPoolExecutor(threads) as pool:
        end = time.perf_counter() + _MEMORY_S
        for turn in count():
            begun = time.perf_counter()
            if turn >= _ROUNDS and begun > end:
                break
            list(pool.map(np.bitwise_or.reduce, parts))  # a sum of floats computes longer than it reads
            best = max(best, _rate(numbers.nbytes, begun))
    return best


def _rate(done: int, begun: float) -> float:
    return done / max(1e-9, time.perf_counter() - begun)
