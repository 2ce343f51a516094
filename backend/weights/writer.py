"""Streams a checkpoint to safetensors files in a folder that is not finished yet, one slab of rows at a time.

All offsets are known before the first byte, so every file is written from start to end and hashed on the way; reading
and computing the next slab overlaps with writing the last. A journal in the folder lists the files that are complete,
so a second run goes on where the first one ended. Knows nothing about where tensors come from.

Which tensor goes into which file follows save_pretrained: model order, a new file when the next tensor would pass the
limit (huggingface_hub, ``split_state_dict_into_shards_factory``).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backend.errors import Cancelled
from backend.events import Progress
from backend.storage import replace_file
from backend.text import Message
from backend.weights.ahead import made_ahead
from backend.weights.checkpoint import SLAB_BYTES, Checkpoint, Tensor
from backend.weights.dtypes import Array
from backend.weights.partial import Journal, check_room, hash_file, writing
from backend.weights.safetensors_file import file_order, header_bytes
from backend.weights.sink import Sink

SHARD_BYTES = 5_000_000_000
INDEX = "model.safetensors.index.json"


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
            with Sink(folder / f"{shard.name}.part", shard.nbytes) as sink:
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


def _write(shard: Shard, sink: Sink, *, slab_bytes: int, cancelled: Callable[[], bool]) -> Iterator[tuple[int, str]]:
    """Write the bytes of one file in order, while others make the next slabs. Yields (bytes, tensor name)."""
    yield sink.write(shard.header), ""
    cuts = ((name, cut) for name, tensor in shard.tensors.items() for cut in tensor.cuts(slab_bytes))
    for name, slab in made_ahead(partial(_slab, shard.tensors[name], cut, name) for name, cut in cuts):
        if cancelled():
            raise Cancelled("weights.cancelled")
        step = sink.write_slab(slab)
        del slab  # it would stay until the next one is there
        yield step, name


def _slab(tensor: Tensor, cut: tuple[int, int], name: str) -> tuple[str, Array]:
    return name, tensor.rows(*cut)


def _index(checkpoint: Checkpoint, shards: Sequence[Shard]) -> bytes:
    """Return the index as transformers writes it: two spaces, sorted keys, a newline at the end."""
    files = {name: shard.name for shard in shards for name in shard.tensors}
    table = {"metadata": {"total_size": checkpoint.nbytes}, "weight_map": files}
    return (json.dumps(table, indent=2, sort_keys=True) + "\n").encode()
