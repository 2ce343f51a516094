"""Sending a growing file to the disk while it grows, so that its end is not a long wait for everything at once.

Linux can (sync_file_range); elsewhere this does nothing, and the sync at the end does it all. It promises nothing about
durability: that is fsync's. Knows nothing about what the bytes mean.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache

_PORTION = 32_000_000  # bytes
_UNDER_WAY = 4  # portions; more would only fill the memory that other programs could use
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # linux/fs.h
_FAILED = (errno.EIO, errno.ENOSPC, errno.EDQUOT)  # said once only: fsync would not say it again


class WriteBack:
    """Follows one file that is written from start to end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._sent = 0  # bytes whose way to the disk has begun

    def wrote(self, size: int) -> None:
        """Take note that the file has ``size`` bytes now; waits where the disk has fallen far behind.

        Raises:
            OSError: the disk could not keep what was written earlier.
        """
        while size - self._sent >= _PORTION:
            self._sync(self._sent, _WRITE)
            self._sent += _PORTION
            if self._sent > _UNDER_WAY * _PORTION:
                self._sync(self._sent - (_UNDER_WAY + 1) * _PORTION, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)

    def _sync(self, start: int, flags: int) -> None:
        sync_file_range = _system_call()
        if sync_file_range and sync_file_range(self._descriptor, start, _PORTION, flags):
            problem = ctypes.get_errno()
            if problem in _FAILED:
                raise OSError(problem, os.strerror(problem))


@cache
def _system_call() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, TypeError, AttributeError):  # another system, or a C library without it
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function
