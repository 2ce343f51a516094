"""Checking a model that stands on the shelf: every file read again and compared with the sum on record.

A file without a sum on record gets one, so that the next check can tell. What came out is written into the model's own
record, with the date. Knows nothing about how the model was made, or about workers.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import Cancelled, MachineError, WeightsError
from backend.events import Event, Log, Progress
from backend.library.adopt import now, record_of
from backend.library.changes import changing
from backend.library.listing import Listing, list_folder
from backend.library.models import ADAPTER
from backend.library.record import RECORD, Checked, sums, write_record
from backend.storage import PART
from backend.text import Message
from backend.weights.disk import read_at
from backend.weights.gguf_ready import is_ready, open_ready
from backend.weights.opening import open_checkpoint

if TYPE_CHECKING:
    from backend.jobs.steps import Context

_BLOCK = 8 << 20


def check_sums(context: "Context") -> Iterator[Event]:
    """Read every file of the plan's folder and compare it. Yields bytes read.

    Raises:
        WeightsError: a file differs from its sum, is gone, or cannot be read; or the weights do not open.
        Cancelled: somebody asked to stop.
    """
    folder = Path(context.plan.base)
    try:
        listing = list_folder(folder)
    except OSError as problem:
        what = problem.strerror or str(problem)
        raise WeightsError("weights.cannot_read", file=folder.name, what=what) from problem
    if is_ready(listing.files):
        open_ready(folder)
    elif not listing.has(ADAPTER):
        open_checkpoint(folder)
    known = sums(record_of(folder))
    gone = sorted(set(known) - set(listing.files))
    found, names = dict[str, str](), _names(listing)
    total, done = sum(listing.files[name][0] for name in names), 0
    for index, name in enumerate(names, 1):
        digest, size = hashlib.sha256(), listing.files[name][0]
        note = Message("weights.doing.verify", {"file": name, "index": index, "count": len(names)})
        for at in range(0, size, _BLOCK):
            if context.cancelled():
                raise Cancelled("job.cancelled")
            digest.update(read_at(folder / name, at, min(_BLOCK, size - at)).data)
            done += min(_BLOCK, size - at)
            yield Progress(done, total, note)
        found[name] = digest.hexdigest()
    bad = [*gone, *(name for name in names if known.get(name, found[name]) != found[name])]
    new = {name: value for name, value in found.items() if name not in known}
    yield from _remember(folder, Checked(now(), len(names), tuple(bad), len(new)), new)
    if bad:
        raise WeightsError("models.damaged", file=bad[0], count=len(bad), files=", ".join(bad[:8]), name=folder.name)


def _names(listing: Listing) -> list[str]:
    """Return the files that have a sum: all but the record itself, what is hidden, and what is half written."""
    return sorted(name for name in listing.files if name != RECORD and name[0] != "." and not name.endswith(PART))


def _remember(folder: Path, checked: Checked, new: dict[str, str]) -> Iterator[Event]:
    """Write down what came out; a folder that may not be written is checked all the same."""
    try:
        with changing(folder.parent):
            record = record_of(folder)
            row = {**asdict(checked), "bad": list(checked.bad)}
            write_record(folder, {**record, "files": {**sums(record), **new}, "checked": row})
    except MachineError as problem:
        yield Log(problem.message)


def leave(_: "Context") -> Iterator[Event]:
    """End a check: there is nothing to put on the shelf."""
    return iter(())
