"""Fetching what a listing names into a folder, so that nothing is lost whatever happens: the one door to all of it.

    for event in fetch(listing, home(downloads, listing), options=Options(), cancelled=asked_to_stop):
        ...

Files get their names one by one, each once its bytes are proven; the manifest comes last. Whatever ends it, calling it
again goes on. Knows nothing about jobs, plans or pages.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from backend.errors import Cancelled, MachineError
from backend.events import FileProgress, Log, Progress
from backend.sources import store
from backend.sources.adopt import adopt, cached_blob, prove
from backend.sources.board import Board
from backend.sources.disk import check_room, with_need, writing
from backend.sources.gate import Gate
from backend.sources.listing import Listing, RemoteFile
from backend.sources.lock import Lock, acquire
from backend.sources.pace import Bucket
from backend.sources.part import Part
from backend.sources.places import Places
from backend.sources.puller import Patience, Puller
from backend.sources.transfer import Transfer
from backend.sources.wire import Session, Token
from backend.storage import free_bytes
from backend.text import Message, Value

_T = TypeVar("_T")
Events = Generator[Progress | Log, None, _T]  # what is going on, and a result in the end

_LOOK_S = 0.1  # how often the threads are looked at, and whether to stop is asked
_DISK_S = 1.0
_OTHER_S = 1.0  # how often one looks how far the process is that one waits for
_LAST_BYTES = 16 << 20  # free bytes below which somebody else is filling the disk


@dataclass(frozen=True)
class Options:
    """How to fetch. ``rate`` is a limit in bytes a second for everything together; ``cache`` is a Hugging Face cache.

    A connection that brings fewer than ``floor`` bytes a second for ``window_s`` seconds is given up; the whole fetch,
    once nothing came for ``patience_s``. ``tokens`` are sent to their origins only.
    """

    connections: int = 8
    per_file: int = 4
    rate: float | None = None
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    cache: Path | None = None
    proxies: Mapping[str, str] | None = None  # None: those of the environment
    window_s: float = 20.0
    floor: float = 1000.0
    patience_s: float = 300.0
    retry_s: float = 0.5  # the first wait after a failure


def fetch(
    listing: Listing,
    folder: Path,
    *,
    options: Options = Options(),
    others: Sequence[Listing] = (),
    bucket: Bucket | None = None,
    gate: Gate | None = None,
    cancelled: Callable[[], bool],
) -> Iterator[Progress | Log]:
    """Fetch every file of a listing into ``folder``; progress is in bytes of the whole listing.

    ``others`` are listings of other servers, in order of preference: files that are the same there come from there when
    the first server fails. While another process fetches the same, this one waits and says so. ``bucket`` is the limit
    that several fetches keep together, in place of ``options.rate``. With a ``gate`` each file waits until it may
    begin, and the download is never called complete: files may be gone before the last one is here.

    Raises:
        SourceError: no server gives a file, or every copy differs from what was promised.
        MachineError: the disk is too small or cannot be written.
        Cancelled: ``cancelled`` said so. After each of them, calling again goes on.
    """
    if store.is_complete(folder, listing):
        store.tidy(folder)
        yield Progress(listing.bytes, listing.bytes)
        return
    lock = yield from _wait_for_lock(listing, folder, cancelled)
    shared = bucket or Bucket(options.rate)
    try:
        yield from _fetch(_Run(listing, folder, options, tuple(others), cancelled, lock, shared, gate))
    finally:
        lock.release()


def _wait_for_lock(listing: Listing, folder: Path, cancelled: Callable[[], bool]) -> Events[Lock]:
    waiting, looked = acquire(store.lock_path(folder), cancelled=cancelled), None
    while True:
        try:
            holder = next(waiting)
        except StopIteration as got:
            lock: Lock = got.value
            return lock
        values: dict[str, Value] = {"repository": listing.repository, "pid": holder.pid, "host": holder.host}
        note, now = Message("download.waiting", values), time.monotonic()
        if looked is None:
            yield Log(note)
        if looked is None or now - looked > _OTHER_S:
            looked = now
            yield Progress(store.bytes_there(folder, listing), listing.bytes, note)


@dataclass(frozen=True)
class _Run:
    """One call of ``fetch``, with the lock held."""

    listing: Listing
    folder: Path
    options: Options
    others: tuple[Listing, ...]
    cancelled: Callable[[], bool]
    lock: Lock
    bucket: Bucket
    gate: Gate | None

    @property
    def parts(self) -> Path:
        """Where unfinished files are."""
        return self.folder / store.PARTS

    def may_begin(self, name: str) -> bool:
        """Tell whether a file may be fetched now."""
        return self.gate is None or self.gate.may_begin(self.folder / name)

    def ready(self, file: RemoteFile) -> None:
        """Note that a file is here and proven."""
        store.note_ready(self.folder, file)
        if self.gate is not None:
            self.gate.came(self.folder / file.name)

    def check(self) -> None:
        """Stop here if somebody asked to."""
        self.lock.beat()
        if self.cancelled():
            raise Cancelled("job.cancelled")


def _fetch(run: _Run) -> Iterator[Progress | Log]:
    if not store.is_complete(run.folder, run.listing):  # the process that was waited for may have fetched it all
        with writing(run.folder):
            run.parts.mkdir(parents=True, exist_ok=True)
            store.sweep(run.folder, run.listing)
        missing = yield from _use_what_is_here(run)
        if missing:
            yield from _transfer(run, missing)
        if run.gate is None:
            store.finish(run.folder, run.listing)
    yield Progress(run.listing.bytes, run.listing.bytes)


def _use_what_is_here(run: _Run) -> Events[list[RemoteFile]]:
    """Take what is proven, prove what only has the right name, adopt what the cache has; return what is missing."""
    known, missing, adopted = store.ready_files(run.folder), list[RemoteFile](), 0
    done = sum(file.size for file in run.listing.files if store.is_ready(run.folder, file, known))
    for file in run.listing.files:
        if store.is_ready(run.folder, file, known):
            continue
        path, note = run.folder / file.name, Message("download.checking", {"file": file.name})
        blob = cached_blob(run.options.cache, run.listing, file) if run.options.cache else None
        right = False
        if path.is_file() and not path.is_symlink():
            right = yield from _counted(run, prove(path, file), done, note)
        if not right and blob:
            right = yield from _counted(run, adopt(blob, run.folder, run.parts, file), done, note)
            adopted += file.size if right else 0
        if not right:
            missing.append(file)
            continue
        run.ready(file)
        done += file.size
    if adopted:
        yield Log(Message("download.from_cache", {"count": adopted, "cache": str(run.options.cache)}))
    return missing


def _counted(run: _Run, reading: Generator[int, None, bool], done: int, note: Message) -> Events[bool]:
    """Tell the progress of reading a file; return what the reading returned."""
    while True:
        run.check()
        try:
            done += next(reading)
        except StopIteration as result:
            return bool(result.value)
        yield Progress(done, run.listing.bytes, note)


def _transfer(run: _Run, missing: Sequence[RemoteFile]) -> Iterator[Progress | Log]:
    with writing(run.folder):
        parts = [Part(run.parts, file) for file in missing]
    ready = run.listing.bytes - sum(part.size for part in parts)
    if run.gate is None:
        check_room(run.folder, sum(part.size - part.done for part in parts))
    options = run.options
    places = Places((run.listing, *run.others), options.tokens, base_s=options.retry_s)
    board = Board(parts, places, per_file=options.per_file, may_begin=run.may_begin)
    patience = Patience(options.window_s, options.floor)
    pullers = [
        Puller(board, Session(timeout_s=options.window_s, proxies=options.proxies), run.bucket, patience)
        for _ in range(options.connections)
    ]
    watched = time.monotonic()

    with Transfer(board, pullers, folder=run.folder, published=lambda part: run.ready(part.file)) as transfer:
        finished = False
        while not finished:
            finished = transfer.finished.wait(_LOOK_S)
            run.check()
            while board.logs:
                yield Log(board.logs.popleft())
            if board.error is not None:
                raise with_need(board.error, board.left)
            yield _progress(board, ready, run.listing.bytes)
            if time.monotonic() - watched > _DISK_S:
                watched = time.monotonic()
                _watch(run, board)


def _progress(board: Board, ready: int, total: int) -> Progress:
    """Return how far everything is, and each file that is on its way."""
    active = board.active()
    busy = {claim.part for claim in active}
    shown = [part for part in board.parts if part in busy or 0 < part.done < part.size]
    files = tuple(FileProgress(part.file.name, part.done, part.size) for part in shown)
    note = None
    if active:
        first = active[0]
        note = Message("download.fetching", {"file": first.part.file.name, "host": first.place.listing.host})
    return Progress(ready + sum(part.done for part in board.parts), total, note, files)


def _watch(run: _Run, board: Board) -> None:
    """Stop in time when the disk fills up, and when nothing has come for too long.

    Raises:
        MachineError: less is free than is still to come, and hardly anything at all.
        CriaError: what the servers said last.
    """
    left, free = board.left, free_bytes(run.folder)
    if left and free < min(left, _LAST_BYTES):
        raise MachineError("download.disk_full", folder=str(run.folder), need=left, free=free)
    asked = board.is_wanting
    if asked and time.monotonic() - board.last_byte > run.options.patience_s and board.places.last_error is not None:
        raise board.places.last_error
    if not asked:
        board.last_byte = time.monotonic()
