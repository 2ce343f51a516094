"""The room that a set-up takes on the disk while source files are removed as soon as nothing needs them.

From names and lengths alone, taking each source to be laid out in the model's order, as all are that a program saved;
the job sees the headers and says so within seconds where that is not so. Knows nothing about how files are fetched or
removed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from backend.arrival import SHARD_BYTES, Output, Room, in_order, usual_outputs
from backend.plan.step import MERGE
from backend.plan.value import Plan
from backend.recipes import META
from backend.sources import store
from backend.sources.folder import open_source
from backend.sources.pinned import Pinned
from backend.sources.source import WEIGHT_ENDINGS, Source

_SHARE, _LEAST = 200, 16_000_000  # headers, samples, journals: a two-hundredth of all, and so many bytes

_Key = tuple[str, str]  # source, file name
_Laid = Sequence[Sequence[tuple[_Key, str, int]]]  # of each source, its files in order: key, name, bytes


def lean_bytes(plan: Plan, downloads: Path) -> int | None:
    """Return the most bytes that a plan adds to the disk at any moment; None where removing files frees nothing.

    What is on this machine already stays, and adds nothing. Archives are unpacked whole before they are used.

    Raises:
        SourceError: a source that should be here is not.
    """
    sources = {spec: _source(plan, spec, downloads) for spec in plan.sources}
    if not plan.remotes or any(source.packed for source in sources.values()):
        return None
    laid_out = [
        [((spec, file.name), file.name, file.size) for file in source.weights] for spec, source in sources.items()
    ]
    coming = {key: size for files in laid_out for key, _, size in files if not _is_here(plan, key, downloads)}
    return _peak(plan, laid_out, coming) + spare(plan.remotes)


def lean_estimate(plan: Plan, sources: Sequence[Source], coming: Mapping[str, int]) -> int:
    """Return the same as far as a recipe's figures tell; ``coming``: the bytes to be fetched of a source, by spec."""
    laid_out = [[((source.spec, file.name), file.name, file.size) for file in source.weights] for source in sources]
    fetched = {key: size for files in laid_out for key, _, size in files if coming.get(key[0])}
    return _peak(plan, laid_out, fetched) + sum(coming.values()) // _SHARE + _LEAST


def _peak(plan: Plan, laid_out: _Laid, coming: Mapping[_Key, int]) -> int:
    """Return the most bytes of weights, and of what else the steps write, that are there at one time."""
    output = next(step.writes for step in plan.steps if step.id == MERGE)
    outputs = usual_outputs(laid_out, output, SHARD_BYTES if plan.layout != META else max(output, 1))
    if plan.layout == META:  # its shards grow together, from the first tensor to the last
        outputs = [Output(one.size, one.needs, one.needs) for one in outputs]
    most = Room(coming, outputs).peak([key for key in in_order(laid_out) if key in coming])
    return max(most, output) + plan.disk_bytes - plan.download_bytes - output


def spare(remotes: Sequence[Pinned]) -> int:
    """Return the bytes to set aside for everything but weights: three times the small files, headers, journals."""
    total, small = 0, 0
    for remote in remotes:
        total += remote.listing.bytes
        small += sum(file.size for file in remote.listing.files if not file.name.endswith(WEIGHT_ENDINGS))
    return 3 * small + total // _SHARE + _LEAST


def _source(plan: Plan, spec: str, downloads: Path) -> Source:
    pinned = plan.pinned(spec)
    return pinned.source(downloads) if pinned else open_source(spec)


def _is_here(plan: Plan, key: _Key, downloads: Path) -> bool:
    pinned = plan.pinned(key[0])
    if pinned is None:
        return True
    folder = pinned.folder(downloads)
    file = next(file for file in pinned.listing.files if file.name == key[1])
    return store.is_ready(folder, file, store.ready_files(folder))
