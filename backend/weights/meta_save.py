"""Streams a checkpoint into Meta's raw layout in a folder that is not finished yet: all shards side by side, each from
its first byte to its last.

The shards grow together because the columns of a matrix go to all of them. They are complete together, too: a run that
was interrupted starts again with the first, unless all of them are there. Knows nothing about where tensors come from.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from backend.errors import Cancelled, WeightsError
from backend.events import Progress
from backend.storage import replace_file
from backend.text import Message
from backend.weights.ahead import made_ahead
from backend.weights.checkpoint import SLAB_BYTES, Checkpoint
from backend.weights.dtypes import Array, all_finite
from backend.weights.meta_files import CHECKLIST, checklist_bytes
from backend.weights.meta_layout import MetaLayout, to_meta_layout
from backend.weights.partial import Journal, check_room, hash_file, writing
from backend.weights.sink import Sink
from backend.weights.split import Piece
from backend.weights.torch_zip_writer import TorchZip, TorchZipWriter


def planned_files(checkpoint: Checkpoint, shards: int | None = None) -> dict[str, int]:
    """Return name -> bytes of the weights files that ``save_meta`` will write; nothing is read. Raises as
    ``to_meta_layout``."""
    return {name: plan.nbytes for name, plan in to_meta_layout(checkpoint, shards).files().items()}


def save_meta(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    shards: int | None = None,
    slab_bytes: int = SLAB_BYTES,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Write a checkpoint's weights as consolidated.NN.pth, and a checklist of their md5 sums. Yields bytes done.

    Raises:
        UsageError, WeightsError: as ``to_meta_layout``; or a source turned out to be damaged while it was read, or has
            numbers that are not finite.
        MachineError: the disk is full or cannot be written.
        Cancelled: ``cancelled`` said so between two slabs.
    """
    layout = to_meta_layout(checkpoint, shards)
    plans = layout.files()
    total = sum(plan.nbytes for plan in plans.values())
    last = Message(checkpoint.doing, {"index": len(layout.pieces), "count": len(layout.pieces)})
    done = 0
    with writing(folder, lambda: total - done):
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal.open(folder, _work(checkpoint, plans))
        if set(plans) <= set(journal.done):
            yield Progress(0, total, Message("weights.doing.check_earlier", {"file": ", ".join(plans)}))
            if all(_still_good(folder / name, plan, journal.done[name]) for name, plan in plans.items()):
                yield Progress(total, total, last)
                return
        for name in list(journal.done):
            journal.forget(name)
        check_room(folder, total)
        with ExitStack() as stack:
            hasher = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="weights-md5"))
            sinks = [stack.enter_context(Sink(folder / f"{name}.part", plan.nbytes)) for name, plan in plans.items()]
            files = [_ShardFile(*shard, hasher=hasher) for shard in zip(plans, plans.values(), sinks, strict=True)]
            for step in _write(
                layout, files, total, doing=checkpoint.doing, slab_bytes=slab_bytes, cancelled=cancelled
            ):
                done = step.done
                yield step
            # Only what passed its checksums may be noted as done: a later run will not look at it again.
            checkpoint.check_sources()
            sha256 = {name: sink.publish(folder / name) for name, sink in zip(plans, sinks, strict=True)}
            replace_file(folder / CHECKLIST, checklist_bytes({file.name: file.md5() for file in files}))
        for name in plans:
            journal.add(name, sha256[name])
        yield Progress(total, total, last)


def _work(checkpoint: Checkpoint, plans: Mapping[str, TorchZip]) -> str:
    """Return a fingerprint of sources, transforms and output layout: files of another job are not kept."""
    digest = hashlib.sha256(json.dumps(checkpoint.made_of).encode())
    for plan in plans.values():
        digest.update(plan.description)
    return digest.hexdigest()


def _still_good(path: Path, plan: TorchZip, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == plan.nbytes and hash_file(path) == sha256


class _ShardFile:
    """One shard while it grows; ``hasher`` makes the md5 sum meanwhile."""

    def __init__(self, name: str, plan: TorchZip, sink: Sink, *, hasher: ThreadPoolExecutor) -> None:
        self.name = name
        self._digest = hashlib.md5(usedforsecurity=False)  # Meta's checklists have md5 sums
        self._hasher = hasher
        self._hashing: Future[None] | None = None
        self._sink = sink
        self._zip = TorchZipWriter(plan, self._put)

    def _put(self, data: bytes | memoryview) -> None:
        if self._hashing is not None:
            self._hashing.result()  # at most one slab behind
        self._hashing = self._hasher.submit(self._digest.update, data)
        self._sink.write(data)

    def append(self, slab: Array, *, dtype: str, name: str) -> int:
        """Write rows of a tensor; returns their bytes."""
        if not all_finite(slab, dtype):
            raise WeightsError("weights.not_finite", file=self.name, name=name)
        self._zip.append(np.ascontiguousarray(slab).reshape(-1).view(np.uint8).data)
        return slab.nbytes

    def close(self) -> None:
        """Write the end of the file."""
        self._zip.close()

    def md5(self) -> str:
        """Return the md5 of everything written, in hex."""
        if self._hashing is not None:
            self._hashing.result()
        return self._digest.hexdigest()


def _write(
    layout: MetaLayout,
    files: Sequence[_ShardFile],
    total: int,
    *,
    doing: str,
    slab_bytes: int,
    cancelled: Callable[[], bool],
) -> Iterator[Progress]:
    """Write all files to their ends, while other threads make the next slabs."""
    done, count = 0, len(layout.pieces)
    cuts = ((index, piece, cut) for index, piece in enumerate(layout.pieces, 1) for cut in piece.cuts(slab_bytes))
    for index, piece, start, slab in made_ahead(partial(_slab, *task) for task in cuts):
        if cancelled():
            raise Cancelled("weights.cancelled")
        for shard, part in piece.parts(slab, start):
            done += files[shard].append(part, dtype=piece.tensor.dtype, name=piece.name)
        del slab, part  # they would stay until the next ones are there
        yield Progress(done, total, Message(doing, {"index": index, "count": count}))
    for file in files:
        file.close()


def _slab(index: int, piece: Piece, cut: tuple[int, int]) -> tuple[int, Piece, int, Array]:
    return index, piece, cut[0], piece.tensor.rows(*cut)
