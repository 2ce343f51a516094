"""Quantised weights kept beside a model, in a folder ``quantised`` inside it, so that the next load neither reads the
large files nor quantises them again.

The file is read as any stranger's is: header, names, formats and shapes are checked against the model's own tensors
before memory is taken. Knows nothing about devices or how a model is put together.
"""

import contextlib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from backend.engines import made
from backend.engines.folder import ModelFolder
from backend.engines.transformers_server.quantised_layout import checked, is_kept
from backend.errors import WeightsError
from backend.library import QUANTISED
from backend.storage import PART
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.disk import inside
from backend.weights.partial import check_room, writing
from backend.weights.safetensors_file import file_order, header_bytes, read_safetensors
from backend.weights.sink import Sink

_VERSION = 1  # of what is written; a higher one makes every file anew
_KINDS = {8: "int8", 4: "nf4"}
_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip
_PORTION = 64_000_000  # bytes brought from the device and written at a time


def store_path(folder: ModelFolder, bits: int, dtype: str) -> Path:
    """Return where the weights are kept in 8 or 4 bits, or will be. ``dtype``: of what is not quantised."""
    return folder.path / QUANTISED / f"{_KINDS[bits]}-{dtype}-{_key(folder)}.safetensors"


def sweep(folder: ModelFolder) -> None:
    """Remove what an interrupted run left and what belongs to other weights, where that may be done at once."""
    made.sweep(folder.path / QUANTISED, _key(folder))


def drop_store(folder: ModelFolder, bits: int, dtype: str) -> bool:
    """Remove kept weights that were no good; tell whether there were any, and are no more."""
    with contextlib.suppress(KeyError, OSError, WeightsError):
        path = store_path(folder, bits, dtype)
        inside(folder.path, f"{QUANTISED}/{path.name}").unlink()
        return True
    return False


def _key(folder: ModelFolder) -> str:
    return made.fingerprint(folder.checkpoint, _VERSION)


def open_store(folder: ModelFolder, bits: int, dtype: str) -> Mapping[str, Tensor] | None:
    """Return the kept tensors by bitsandbytes' names, not read yet; None where there are none. A file that does not fit
    the model goes.
    """
    path = store_path(folder, bits, dtype)
    try:
        inside(folder.path, f"{QUANTISED}/{path.name}")
        if not path.is_file():
            return None
        name = _NAMES[getattr(torch, dtype)]
        return checked(read_safetensors(path), folder.checkpoint.tensors, bits=bits, dtype=name)
    except WeightsError:
        traceback.print_exc()  # for the log; the model's own files are there to make it from
        drop_store(folder, bits, dtype)
        return None


def write_store(model: Any, folder: ModelFolder, *, bits: int, dtype: str, report: Callable[[int, int], None]) -> None:
    """Keep a quantised model's weights. Call it before anything was computed: on a CPU bitsandbytes then lays 4-bit
    matrices out anew. ``report`` hears of bytes written and of all.

    Raises:
        MachineError: no room, or the folder cannot be written.
        WeightsError: the model has other tensors than its files, or the place for it leads elsewhere.
    """
    path = store_path(folder, bits, dtype)
    inside(folder.path, f"{QUANTISED}/{path.name}")
    state = _state(model, folder.checkpoint)
    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
        with made.alone(path.parent) as mine:
            if not mine:
                return  # another process keeps them at this moment
            made.clear(path.parent, _key(folder))
            if not path.is_file():
                _write(state, path, report)


def store_bytes(model: Any, checkpoint: Checkpoint) -> int:
    """Return the bytes of the tensors that would be written."""
    return sum(tensor.nbytes for tensor in _state(model, checkpoint).values())


def _state(model: Any, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return what belongs into the file, on whatever device it is."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items() if is_kept(name, checkpoint.tensors)}
    lost = next((name for name in checkpoint.tensors if name not in state), None)
    if lost is not None:
        raise WeightsError("quantised.store_differs", name=lost[:120])
    return state


def _write(state: Mapping[str, torch.Tensor], path: Path, report: Callable[[int, int], None]) -> None:
    described = {name: Tensor(_NAMES[one.dtype], tuple(one.shape), _no_rows) for name, one in state.items()}
    order = file_order(described)
    head = header_bytes([(name, described[name]) for name in order])
    total, done = len(head) + sum(tensor.nbytes for tensor in described.values()), len(head)
    check_room(path.parent, total)
    part = path.with_name(path.name + PART)
    try:
        with Sink(part, total) as sink:
            sink.write(head)
            for name in order:
                flat = state[name].reshape(-1).view(torch.uint8)
                for start in range(0, flat.numel(), _PORTION):
                    done += sink.write_slab(flat[start : start + _PORTION].cpu().numpy())
                    report(done, total)
            sink.publish(path)
    finally:
        part.unlink(missing_ok=True)


def _no_rows(_: int, __: int) -> Any:
    raise NotImplementedError
