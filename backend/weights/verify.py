"""Reads a finished folder once more from the disk: every hash, every header, every number. Knows nothing about how the
folder was made.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from backend.errors import Cancelled, WeightsError
from backend.events import Progress
from backend.text import Message
from backend.weights.ahead import made_ahead
from backend.weights.checkpoint import SLAB_BYTES, Tensor
from backend.weights.disk import read_at
from backend.weights.dtypes import all_finite
from backend.weights.huggingface import open_huggingface
from backend.weights.meta import open_meta
from backend.weights.meta_files import is_meta
from backend.weights.safetensors_file import read_safetensors


def verify(
    folder: Path, expected: Mapping[str, str], *, cancelled: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """Re-read a model folder. Yields bytes done; ``expected`` is file name -> sha256 for the files to compare.

    Opening it checks headers, index, tensor names and shapes against config.json or params.json; reading it checks that
    every file has the bytes that were written and that all weights are finite numbers.

    Raises:
        WeightsError: something is not as it should be; the message names the file, and the tensor where there is one.
        Cancelled: ``cancelled`` said so.
    """
    checkpoint = open_meta(folder) if is_meta(folder) else open_huggingface(folder)
    files = sorted(set(expected) | {file.path.name for file in checkpoint.files})
    sizes = {name: _size(folder / name) for name in files}
    total, done = sum(sizes.values()), 0
    for number, name in enumerate(files, 1):
        note = Message("weights.doing.verify", {"file": name, "index": number, "count": len(files)})
        digest = hashlib.sha256()
        for part in _read(folder / name, sizes[name]):
            if cancelled():
                raise Cancelled("weights.cancelled")
            digest.update(part)
            done += len(part)
            yield Progress(done, total, note)
        if name in expected and digest.hexdigest() != expected[name]:
            raise WeightsError("weights.hash_differs", file=name)


def _size(path: Path) -> int:
    if not path.is_file():
        raise WeightsError("weights.file_missing", file=path.name, folder=str(path.parent))
    return path.stat().st_size


def _read(path: Path, size: int) -> Iterator[memoryview]:
    """Yield a file from start to end in parts; numbers of a weights file are looked at as they go by."""
    if path.suffix == ".safetensors":
        tensors = read_safetensors(path)
        yield read_at(path, 0, size - sum(tensor.nbytes for tensor in tensors.values())).data
        cuts = ((name, cut) for name, tensor in tensors.items() for cut in tensor.cuts())
        yield from made_ahead(partial(_finite, tensors[name], cut, name, path.name) for name, cut in cuts)
    else:
        for at in range(0, size, SLAB_BYTES):
            yield read_at(path, at, min(SLAB_BYTES, size - at)).data


def _finite(tensor: Tensor, cut: tuple[int, int], name: str, file: str) -> memoryview:
    slab = tensor.rows(*cut)
    if not all_finite(slab, tensor.dtype):
        raise WeightsError("weights.not_finite", file=file, name=name)
    return np.ascontiguousarray(slab).reshape(-1).view(np.uint8).data
