"""What the C library does with freed memory while weights are read. Knows nothing about models.

glibc keeps freed blocks below a bound that grows up to 32 MB, which is every matrix of a small model: after reading in
8 bits an engine held 2.6 GB where 1.8 were in use, and 3.0 at its peak. With a fixed bound large blocks are the
kernel's again at once. Where there is another C library nothing happens.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_WHILE_LOADING, _LATER, _KEPT = 1 << 20, 32 << 20, 64 << 20  # bytes


@contextlib.contextmanager
def freed_at_once() -> Iterator[None]:
    """While this lasts, freed blocks go back to the kernel; at its end what was kept before goes back too."""
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP, _WHILE_LOADING)
    try:
        yield
    finally:
        libc.mallopt(_MMAP, _LATER)  # computing reuses its blocks, which is quicker
        libc.mallopt(_TRIM, _KEPT)
        libc.malloc_trim(0)


def _glibc() -> Any:
    """Return the C library if it is one that takes such wishes."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        if library.mallopt and library.malloc_trim and library.gnu_get_libc_version:
            return library
    return None
