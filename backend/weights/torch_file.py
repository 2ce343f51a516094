"""Whatever torch.save wrote: today's zip container, or the plain one of before 2020. Knows nothing about models."""

from functools import partial
from pathlib import Path
from typing import TypeGuard

import numpy as np

from backend.errors import WeightsError
from backend.weights.checkpoint import Tensor
from backend.weights.disk import read_at, source_file
from backend.weights.dtypes import itemsize
from backend.weights.pickles import PICKLE_LIMIT, read_pickle, tensors_of
from backend.weights.torch_zip import Record, read_torch_zip, view_tensor

_LEGACY_START = b"\x80\x02\x8a\x0a"  # a pickled magic number
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_torch_file(path: Path) -> tuple[dict[str, Tensor], tuple[Record, ...]]:
    """Return the lazy tensors of a .pth or .bin file, and the records whose checksums want finishing.

    Raises:
        WeightsError: it is neither, or damaged, or asks for more than data.
    """
    source_file(path)
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_START))
    return (_read_legacy(path), ()) if start == _LEGACY_START else read_torch_zip(path)


def _read_legacy(path: Path) -> dict[str, Tensor]:
    """Read the container of torch before 1.6 (``_legacy_save``): five pickles, then every storage behind its length.

    The pickles are the magic number, the protocol, the machine's byte order and integer sizes, the object, and the keys
    of the storages in order. There are no checksums.
    """
    size = path.stat().st_size
    head = read_at(path, 0, min(size, PICKLE_LIMIT)).tobytes()
    parts, at = [], 0
    for _ in range(5):
        value, used = read_pickle(head[at:], path.name)
        parts.append(value)
        at += used
    magic, protocol, machine, found, keys = parts
    little = isinstance(machine, dict) and machine.get("little_endian") is True
    if (magic, protocol) != (_MAGIC, _PROTOCOL) or not little or not _are_texts(keys):
        raise WeightsError("weights.not_torch_zip", file=path.name)
    views = tensors_of(found, path.name)
    sizes = {view.storage.key: view.storage.count * itemsize(view.storage.dtype) for view in views.values()}
    counts = {view.storage.key: view.storage.count for view in views.values()}
    offsets: dict[str, int] = {}
    for key in keys:
        if key not in sizes or at + 8 > size:
            raise WeightsError("weights.record_missing", file=path.name, record=repr(key)[:40], name="?")
        if int.from_bytes(read_at(path, at, 8).tobytes(), "little") != counts[key]:
            raise WeightsError("weights.record_size", file=path.name, record=key, bytes=sizes[key])
        offsets[key] = at + 8
        at += 8 + sizes[key]
    if at > size:
        raise WeightsError("weights.truncated", file=path.name, missing=at - size)
    missing = next((name for name, view in views.items() if view.storage.key not in offsets), None)
    if missing is not None:
        raise WeightsError("weights.record_missing", file=path.name, record="?", name=missing[:120])
    return {name: view_tensor(view, partial(_bytes, path, offsets[view.storage.key])) for name, view in views.items()}


def _are_texts(keys: object) -> TypeGuard[list[str]]:
    return isinstance(keys, list) and all(isinstance(key, str) for key in keys)


def _bytes(path: Path, offset: int, start: int, stop: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return read_at(path, offset + start, stop - start)
