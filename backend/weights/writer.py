"""Streams a checkpoint to safetensors files in a folder that is not finished yet, one slab of rows at a time.

All offsets are known before the first byte, so every file is written from start to end and hashed on the way; reading
and computing the next slab overlaps with writing the last. A journal in the folder lists the files that are complete,
so a second run goes on where the first one ended. Knows nothing about where tensors come from.

Which tensor goes into which file follows save_pretrained: model order, a new file when the next tensor would pass the
limit (huggingface_hub, ``split_state_dict_into_shards_factory``). Where sources have several files, what needs the
later ones comes later, between files and inside one: so files can be written, and sources removed, while others are
still on their way. The order follows from the sources alone, so the same sources always make the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from backend.arrival import SHARD_BYTES, Output, grouped
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

    @property
    def output(self) -> Output[Path]:
        """What it is made of."""
        first, *_ = self.tensors.values()
        files = (tensor.files for tensor in self.tensors.values())
        return Output(self.nbytes, first.files, frozenset[Path]().union(*files))


def plan_shards(checkpoint: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> tuple[Shard, ...]:
    """Return the files that ``save`` will write, with their exact sizes; nothing is read."""
    turns = _turns(checkpoint)
    names = sorted(checkpoint, key=turns.__getitem__)  # and in the model's order where that is the same
    groups = grouped([(checkpoint[name].nbytes, turns[name]) for name in names], shard_bytes)
    return tuple(
        _shard({names[n]: checkpoint[names[n]] for n in group}, turns, index, len(groups))
        for index, group in enumerate(groups, 1)
    )


def _turns(checkpoint: Mapping[str, Tensor]) -> dict[str, int]:
    """Return when each tensor can be written: the place of the last file it needs in the order of their coming."""
    places = checkpoint.arrival if isinstance(checkpoint, Checkpoint) else {}
    return {name: max((places.get(file, 0) for file in tensor.files), default=0) for name, tensor in checkpoint.items()}


def _shard(group: Mapping[str, Tensor], turns: Mapping[str, int], index: int, count: int) -> Shard:
    ordered = {name: group[name] for name in file_order(group, turns)}
    name = "model.safetensors" if count == 1 else f"model-{index:05d}-of-{count:05d}.safetensors"
    return Shard(name, header_bytes(ordered.items()), ordered)


def save(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    slab_bytes: int = SLAB_BYTES,
    cancelled: Callable[[], bool] = lambda: False,
    finished: Callable[[str], None] = lambda _: None,
) -> Iterator[Progress]:
    """Write a checkpoint's weights into a folder, going on from an earlier run of the same work. Yields bytes done.

    ``finished`` is called with the name of each weights file once it is durable; of an earlier run's too.

    Raises:
        WeightsError: a source turned out to be damaged while it was read.
        MachineError: the disk is full or cannot be written.
        Cancelled: ``cancelled`` said so between two slabs.
    """
    shards, done = plan_shards(checkpoint, shard_bytes), 0
    total = sum(shard.nbytes for shard in shards)
    with writing(folder, lambda: total - done):
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal.open(folder, _work(checkpoint, shards))
        for shard in shards:
            if shard.name in journal.done:
                yield Progress(done, total, Message("weights.doing.check_earlier", {"file": shard.name}))
                if not _still_good(folder / shard.name, shard, journal.done[shard.name]):
                    journal.forget(shard.name)
            done += shard.nbytes if shard.name in journal.done else 0
        check_room(folder, total - done)
        names = {name: number for number, name in enumerate(checkpoint, 1)}
        for shard in shards:
            if shard.name not in journal.done:
                for step, name in _write(folder / shard.name, shard, checkpoint, journal,
                                         slab_bytes=slab_bytes, cancelled=cancelled):  # fmt: skip
                    done += step
                    note = Message(checkpoint.doing, {"index": names.get(name, 1), "count": len(names)})
                    yield Progress(done, total, note)
            finished(shard.name)
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


def _write(
    path: Path,
    shard: Shard,
    checkpoint: Checkpoint,
    journal: Journal,
    *,
    slab_bytes: int,
    cancelled: Callable[[], bool],
) -> Iterator[tuple[int, str]]:
    """Write the bytes of one file in order, while others make the next slabs. Yields (bytes, tensor name).

    It takes its room on the disk once its first slab is there: inputs may be on their way for hours.
    """
    cuts = ((name, cut) for name, tensor in shard.tensors.items() for cut in tensor.cuts(slab_bytes))
    made = made_ahead(partial(_slab, shard.tensors[name], cut, name) for name, cut in cuts)
    with closing(made):
        first = list(islice(made, 1))
        with Sink(path.with_name(f"{path.name}.part"), shard.nbytes) as sink:
            yield sink.write(shard.header), ""
            for name, slab in chain(_emptied(first), made):
                if cancelled():
                    raise Cancelled("weights.cancelled")
                step = sink.write_slab(slab)
                del slab  # it would stay until the next one is there
                yield step, name
            # Only what passed its checksums may be noted as done: a later run will not look at it again.
            checkpoint.check_sources()
            journal.add(shard.name, sink.publish(path))


def _emptied(items: list[tuple[str, Array]]) -> Iterator[tuple[str, Array]]:
    """Yield what is in a list, which does not keep it."""
    while items:
        yield items.pop()


def _slab(tensor: Tensor, cut: tuple[int, int], name: str) -> tuple[str, Array]:
    return name, tensor.rows(*cut)


def _index(checkpoint: Checkpoint, shards: Sequence[Shard]) -> bytes:
    """Return the index as transformers writes it: two spaces, sorted keys, a newline at the end."""
    files = {name: shard.name for shard in shards for name in shard.tensors}
    table = {"metadata": {"total_size": checkpoint.nbytes}, "weight_map": files}
    return (json.dumps(table, indent=2, sort_keys=True) + "\n").encode()
