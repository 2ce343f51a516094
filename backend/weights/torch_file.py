"""Whatever torch.save wrote: today's zip container, or the plain one of before 2020. Knows nothing about models."""

from functools import partial
from pathlib import Path
from typing import TypeGuard

import numpy as np

from backend.errors import WeightsError
from backend.weights.checkpoint import Tensor
from backend.weights.disk import read_at, read_start, source_file
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
    start = read_start(path, len(_LEGACY_START))
    return (_read_legacy(path), ()) if start == _LEGACY_START else read_torch_zip(path)


def _read_legacy(path: Path) -> dict[str, Tensor]:
    """Read the container of torch before 1.6 (``_legacy_save``): five pickles, then every storage behind its length.

    The pickles are the magic number, the protocol, the machine's byte order and integer sizes, the object, and the keys
    of the storages in order. There are no checksums.
    """
    size = source_file(path).bytes
    head = read_start(path, PICKLE_LIMIT)
    parts, at = [], 0
    for _ in range(5):
        parts.append(read_pickle(head[at:], path.name))
        at += parts[-1].length
    magic, protocol, machine, found, keys = (part.value for part in parts)
    numbers = type(magic) is int and type(protocol) is int and (magic, protocol) == (_MAGIC, _PROTOCOL)
    if not numbers or not isinstance(machine, dict) or not _are_texts(keys):
        raise WeightsError("weights.not_torch_zip", file=path.name)
    if machine.get("little_endian") is not True:
        raise WeightsError("files.big_endian", file=path.name)
    views, storages = tensors_of(found, path.name), parts[3].storages
    offsets: dict[str, int] = {}
    for key in keys:
        if key not in storages or key in offsets:
            raise WeightsError("weights.record_missing", file=path.name, record=key[:20], name="?")
        nbytes = storages[key].count * itemsize(storages[key].dtype)
        if int.from_bytes(read_at(path, at, 8).tobytes(), "little") != storages[key].count:
            raise WeightsError("weights.record_size", file=path.name, record=key, bytes=nbytes)
        offsets[key] = at + 8
        at += 8 + nbytes
    missing = next((name for name, view in views.items() if view.storage.key not in offsets), None)
    if missing is not None:
        raise WeightsError("weights.record_missing", file=path.name, record="?", name=missing[:120])
    if at > size:
        raise WeightsError("weights.truncated", file=path.name, missing=at - size)
    if at < size:
        raise WeightsError("weights.trailing_bytes", file=path.name, bytes=size - at)
    return {
        name: view_tensor(path, view, partial(_bytes, path, offsets[view.storage.key])) for name, view in views.items()
    }


def _are_texts(keys: object) -> TypeGuard[list[str]]:
    return isinstance(keys, list) and all(isinstance(key, str) for key in keys)


def _bytes(path: Path, offset: int, start: int, stop: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return read_at(path, offset + start, stop - start)
