"""A file that grows from start to end, is hashed on the way, and gets its real name only once it is durable.

Knows nothing about tensors, formats or what the bytes mean.
"""

import hashlib
import os
from pathlib import Path
from types import TracebackType

import numpy as np

from backend.weights.dtypes import Array
from backend.weights.partial import reserve
from backend.weights.writeback import WriteBack


class Sink:
    """The file ``path`` of exactly ``size`` bytes, opened at once. One thread writes at a time.

    As a context manager it closes the file; what was not published stays under ``path``.

    Raises:
        OSError: here or from any method: the disk is full or cannot be written.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._file = path.open("wb", buffering=0)
        try:
            reserve(self._file.fileno(), size)
        except OSError:
            self._file.close()
            raise
        self._written, self._write_back = 0, WriteBack(self._file.fileno())

    def __enter__(self) -> "Sink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; returns how many."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._digest.update(data)
        self._written += len(data)
        self._write_back.wrote(self._written)
        return len(data)

    def write_slab(self, slab: Array) -> int:
        """Append the numbers of an array in C order; returns their bytes."""
        return self.write(np.ascontiguousarray(slab).reshape(-1).view(np.uint8).data)

    def publish(self, final: Path) -> str:
        """Make the file durable, close it and give it its real name; returns its sha256 in hex."""
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.replace(final)
        return self._digest.hexdigest()
