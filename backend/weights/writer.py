"""Streams a checkpoint to safetensors files in a folder that is not finished yet, one slab of rows at a time.

All offsets are known before the first byte, so every file is written from start to end and hashed on the way; reading
and computing the next slab overlaps with writing the last. A journal in the folder lists the files that are complete,
so a second run goes on where the first one ended. Knows nothing about where tensors come from.

Which tensor goes into which file follows save_pretrained: model order, a new file when the next tensor would pass the
limit (huggingface_hub, ``split_state_dict_into_shards_factory``).
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.errors import Cancelled
from backend.events import Progress
from backend.text import Message
from backend.weights.checkpoint import SLAB_BYTES, Checkpoint, Tensor
from backend.weights.dtypes import Array
from backend.weights.partial import Journal, check_room, hash_file, replace_file, reserve, writing
from backend.weights.safetensors_file import file_order, header_bytes

SHARD_BYTES = 5_000_000_000
INDEX = "model.safetensors.index.json"
_AHEAD = 2  # slabs that may wait for the disk


@dataclass(frozen=True)
class Shard:
    """One output file: its name, its header, and its tensors in file order."""

    name: str
    header: bytes
    tensors: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors.values())


def plan_shards(checkpoint: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> tuple[Shard, ...]:
    """Return the files that ``save`` will write, with their exact sizes; nothing is read."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in checkpoint.items():
        if groups[-1] and size + tensor.nbytes > shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    return tuple(_shard(group, index, len(groups)) for index, group in enumerate(groups, 1))


def _shard(group: Mapping[str, Tensor], index: int, count: int) -> Shard:
    ordered = {name: group[name] for name in file_order(group)}
    name = "model.safetensors" if count == 1 else f"model-{index:05d}-of-{count:05d}.safetensors"
    return Shard(name, header_bytes(ordered.items()), ordered)


def save(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    slab_bytes: int = SLAB_BYTES,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Write a checkpoint's weights into a folder, going on from an earlier run of the same work. Yields bytes done.

    Raises:
        WeightsError: a source turned out to be damaged while it was read.
        MachineError: the disk is full or cannot be written.
        Cancelled: ``cancelled`` said so between two slabs.
    """
    shards = plan_shards(checkpoint, shard_bytes)
    total = sum(shard.nbytes for shard in shards)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal.open(folder, _work(checkpoint, shards))
        done = 0
        for shard in shards:
            if shard.name in journal.done:
                yield Progress(done, total, Message("weights.doing.check_earlier", {"file": shard.name}))
                if not _still_good(folder / shard.name, shard, journal.done[shard.name]):
                    journal.forget(shard.name)
            done += shard.nbytes if shard.name in journal.done else 0
        check_room(folder, total - done)
        names = {name: number for number, name in enumerate(checkpoint, 1)}
        for shard in shards:
            if shard.name in journal.done:
                continue
            sink = _Sink(folder / f"{shard.name}.part", shard.nbytes)
            for step, name in _write(shard, sink, slab_bytes=slab_bytes, cancelled=cancelled):
                done += step
                note = Message(checkpoint.doing, {"index": names.get(name, 1), "count": len(names)})
                yield Progress(done, total, note)
            # Only what passed its checksums may be noted as done: a later run will not look at it again.
            checkpoint.check_sources()
            journal.add(shard.name, sink.publish(folder / shard.name))
        if len(shards) > 1:
            replace_file(folder / INDEX, _index(checkpoint, shards))
            journal.add(INDEX, hash_file(folder / INDEX))
        yield Progress(total, total, Message(checkpoint.doing, {"index": len(names), "count": len(names)}))


def written(folder: Path) -> dict[str, str]:
    """Return file name -> sha256 of the weights that ``save`` completed in a folder."""
    return dict(Journal.read(folder).done)


def _work(checkpoint: Checkpoint, shards: Sequence[Shard]) -> str:
    """Return a fingerprint of sources, transforms and output layout: files of another job are not gone on with."""
    digest = hashlib.sha256(json.dumps(checkpoint.made_of).encode())
    for shard in shards:
        digest.update(shard.header)
    return digest.hexdigest()


def _still_good(path: Path, shard: Shard, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == shard.nbytes and hash_file(path) == sha256


class _Sink:
    """A file that grows from start to end and is hashed on the way, under a name that does not look finished."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.file = path.open("wb", buffering=0)
        try:
            reserve(self.file.fileno(), size)
        except OSError:
            self.file.close()
            raise

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; returns how many."""
        view = memoryview(data)
        while view:
            view = view[self.file.write(view) :]
        self.digest.update(data)
        return len(data)

    def write_slab(self, slab: Array) -> int:
        """Append the numbers of a slab; returns their bytes."""
        return self.write(np.ascontiguousarray(slab).reshape(-1).view(np.uint8).data)

    def publish(self, path: Path) -> str:
        """Give the durable file its real name; returns its sha256."""
        self.path.replace(path)
        return self.digest.hexdigest()


def _write(shard: Shard, sink: _Sink, *, slab_bytes: int, cancelled: Callable[[], bool]) -> Iterator[tuple[int, str]]:
    """Write one file and make it durable. Yields (bytes, tensor name) as they reach the disk."""
    waiting: deque[tuple[Future[int], str]] = deque()
    with sink.file, ThreadPoolExecutor(1, thread_name_prefix="weights-writer") as writer:
        yield sink.write(shard.header), ""
        for name, tensor in shard.tensors.items():
            for slab in tensor.slabs(slab_bytes):
                if cancelled():
                    raise Cancelled("weights.cancelled")
                waiting.append((writer.submit(sink.write_slab, slab), name))
                del slab
                if len(waiting) > _AHEAD:
                    yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
        os.fsync(sink.file.fileno())


def _finished(waiting: deque[tuple[Future[int], str]]) -> tuple[int, str]:
    future, name = waiting.popleft()
    return future.result(), name


def _index(checkpoint: Checkpoint, shards: Sequence[Shard]) -> bytes:
    """Return the index as transformers writes it: two spaces, sorted keys, a newline at the end."""
    files = {name: shard.name for shard in shards for name in shard.tensors}
    table = {"metadata": {"total_size": checkpoint.nbytes}, "weight_map": files}
    return (json.dumps(table, indent=2, sort_keys=True) + "\n").encode()
