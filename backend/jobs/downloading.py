"""Fetching all remote sources of a job side by side, as one bar. Knows nothing about what is done with them.

Side by side and not one after the other, so that the first file of the base and the first of the delta are there at
about the same time, and merging can begin. Within a source it is one large file at a time for the same reason.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from backend.events import Event, FileProgress, Progress
from backend.jobs.together import Halt, together
from backend.sources.fetch import Options, fetch
from backend.sources.gate import Gate
from backend.sources.pace import Bucket
from backend.sources.pinned import Pinned

_LEAST = 2  # connections of a small source


def download(
    remotes: Sequence[Pinned],
    downloads: Path,
    *,
    options: Options,
    bucket: Bucket,
    gate: Gate | None = None,
    cancelled: Callable[[], bool],
) -> Iterator[Event]:
    """Fetch all sources into their folders below ``downloads``; they share the connections by their sizes.

    With a ``gate`` files wait until they may begin.

    Raises as ``fetch`` does.
    """
    folders = {str(remote.folder(downloads)): remote for remote in remotes}  # one source may be meant twice
    total = sum(remote.listing.bytes for remote in folders.values())
    halt, latest = Halt(cancelled), dict[str, Progress]()

    def one(remote: Pinned) -> Iterator[Event]:
        share = round(options.connections * remote.listing.bytes / max(total, 1))
        count = max(min(_LEAST, options.connections), share)
        mine = replace(options, connections=count, per_file=count)
        folder = remote.folder(downloads)
        yield from fetch(
            remote.listing, folder, options=mine, others=remote.others, bucket=bucket, gate=gate, cancelled=halt
        )

    for name, event in together({name: partial(one, remote) for name, remote in folders.items()}, halt):
        if not isinstance(event, Progress):
            if event is not None:
                yield event
            continue
        latest[name] = event if len(folders) == 1 else _named(event, folders[name].listing.repository)
        done, files = sum(one.done for one in latest.values()), [one.files for one in latest.values()]
        yield Progress(done, total, event.note, tuple(file for some in files for file in some))


def _named(event: Progress, repository: str) -> Progress:
    """Name files with their repository: a base and its delta have the same file names."""
    files = tuple(FileProgress(f"{repository}/{file.name}", file.done, file.total) for file in event.files)
    return replace(event, files=files)
