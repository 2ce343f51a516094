"""The files of remote sources while they are still on their way: a folder of stand-ins that can be opened at once.

    arriving = Arriving(stage, [(listing, folder), ...], options=options, bucket=bucket, cancelled=asked_to_stop)
    arriving.prepare()                  # waits for the small files and copies them
    ... open arriving.folder(folder) ...  # headers and sample rows are fetched as they are asked for
    arriving.settle()                   # from here on every read waits until the whole file is there and proven

A stand-in has its file's length and the bytes that were asked for, the rest are holes. Those bytes come from a server
nobody vouches for, so they are compared with the proven file once that is there, and nothing but the proven file is
read after ``settle``. Where a server gives no such pieces, opening waits for the file.

With a ledger, files may be removed in between: what opening them had read is remembered. Knows nothing about weights.
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from backend.errors import Cancelled, SourceError
from backend.sources import store
from backend.sources.disk import writing
from backend.sources.extents import Extents
from backend.sources.fetch import Options
from backend.sources.ledger import Ledger
from backend.sources.listing import Listing, RemoteFile
from backend.sources.pace import Bucket
from backend.sources.ranges import body_start
from backend.sources.source import WEIGHT_ENDINGS
from backend.sources.trouble import Stopped, Trouble
from backend.sources.wire import Session, Token, blamed, token_for

_SMALL = 1 << 20  # bytes; smaller weights come first anyway
_SOON = 1 << 26  # bytes; what is not longer altogether is there soon, and is not looked into before
_BLOCK = 1 << 14  # bytes; what lies in one is fetched together
_MOST, _ASKS = 1 << 24, 2000  # bytes at once, requests for one file: who wants more waits for the file
_LOOK_S, _PATIENCE_S = 0.1, 10.0


class NeededAgain(Exception):
    """A file that was removed is needed after all; it is not called removed any more, and has to be fetched."""


class Differs(Exception):
    """A proven file is not what was seen of it before: what was concluded from that must be thought over again."""


@dataclass(eq=False)
class _Coming:
    """One large file. ``known`` are the bytes that its stand-in has, ``seen`` those that opening it read."""

    file: RemoteFile
    folder: Path
    stand_in: Path
    token: Token | None
    url: str
    known: Extents = field(default_factory=Extents)
    seen: Extents = field(default_factory=Extents)
    is_gone: bool = False
    asks: int = 0
    gives_pieces: bool = True
    is_there: bool = False
    differs: bool = False  # from what was seen of it before
    looked: float = 0.0
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def real(self) -> Path:
        """Where the file will be."""
        return self.folder / self.file.name


class Arriving:
    """Stand-ins for several sources. ``sources`` are listings and the folders that they are fetched into."""

    def __init__(
        self,
        stage: Path,
        sources: Sequence[tuple[Listing, Path]],
        *,
        options: Options,
        bucket: Bucket,
        cancelled: Callable[[], bool],
        ledger: Ledger | None = None,
    ) -> None:
        self._ledger = ledger
        self._stage, self.bucket, self._cancelled = stage, bucket, cancelled
        self._sources, self._peeking = tuple(sources), True
        self._session, self._asking = Session(timeout_s=_PATIENCE_S, proxies=options.proxies), threading.Lock()
        self._coming, total = dict[Path, _Coming](), sum(listing.bytes for listing, _ in sources)
        for listing, folder in sources:
            token = token_for(listing.endpoint, options.tokens)
            for file in filter(_is_large, listing.files):
                path = self.folder(folder) / file.name
                self._coming[path] = _Coming(file, folder, path, token, file.url, gives_pieces=total > _SOON)

    def folder(self, folder: Path) -> Path:
        """Return the stage of a source; it is called as the source's own folder is, since sentences name it."""
        return self._stage / folder.parent.name / folder.name

    def prepare(self) -> None:
        """Lay out the stand-ins, and copy each small file as soon as it is there.

        Raises:
            MachineError: the disk is full or cannot be written.
            Cancelled: somebody asked to stop.
        """
        self._peeking = True
        self.forget()
        with writing(self._stage):
            self.clear()
            for coming in self._coming.values():
                self._lay_out(coming)
            for listing, folder in self._sources:
                for file in listing.files:
                    if not _is_large(file):
                        self._copy(folder, file)

    def _lay_out(self, coming: _Coming) -> None:
        coming.differs, coming.seen = False, Extents()
        coming.stand_in.parent.mkdir(parents=True, exist_ok=True)
        with coming.stand_in.open("wb") as out:
            out.truncate(coming.file.size)
        if self._ledger is not None and self._ledger.is_removed(coming.real):
            coming.is_gone, coming.is_there, coming.known = True, False, self._ledger.remembered(coming.real)
            self._ledger.recall(coming.real, coming.stand_in)
        _stamp(coming.stand_in, coming.file)

    def clear(self) -> None:
        """Remove the stage."""
        shutil.rmtree(self._stage, ignore_errors=True)

    def close(self) -> None:
        """End requests that are under way and remove the stage; for whoever started all this, from any thread."""
        self._session.abort()
        self._session.close()
        self.clear()

    def forget(self) -> bool:
        """Fetch anew what is asked for of files that are not there yet; tell whether there are any."""
        coming = [one for one in self._coming.values() if not one.is_there and not one.is_gone]
        for one in coming:
            one.known = Extents()
        return bool(coming)

    def settle(self) -> None:
        """Give out nothing but proven files from here on."""
        self._peeking = False

    def locate(self, path: Path, start: int, stop: int) -> Path:
        """Return the file that has these bytes: the proven one, or before ``settle`` a stand-in.

        Raises:
            Differs: the file came, and is not what its stand-in was taken for.
            Cancelled: somebody asked to stop.
        """
        coming = self._coming.get(path)
        if coming is None:
            return path
        start, stop = start // _BLOCK * _BLOCK, min(-(-stop // _BLOCK) * _BLOCK, coming.file.size)
        with coming.turn:
            if coming.is_gone:
                return self._recalled(coming, start, stop)
            if self._peeking:
                coming.seen.add(start, stop)
            while not self._has_come(coming):
                if self._peeking and self._has_piece(coming, start, stop):
                    return path
                self._pause()
        return coming.real

    def _recalled(self, coming: _Coming, start: int, stop: int) -> Path:
        """Return the stand-in of a removed file for what is remembered of it."""
        if self._ledger is not None and (not self._peeking or any(coming.known.gaps(start, stop))):
            self._ledger.restore(coming.real)
            raise NeededAgain(coming.file.name)
        return coming.stand_in

    def real(self, path: Path) -> Path:
        """Return where a file of the stage is, or will be, in the store; another path is its own."""
        coming = self._coming.get(path)
        return path if coming is None else coming.real

    def remove(self, real: Path) -> bool:
        """Remove a file that nothing reads any more from the store; tell whether that was done.

        Raises:
            MachineError: the disk is full or cannot be written.
        """
        coming = next((one for one in self._coming.values() if one.real == real), None)
        if coming is None or self._ledger is None or coming.is_gone:
            return False
        with coming.turn:
            coming.is_gone = self._ledger.remove(real, coming.seen)
            coming.is_there = coming.is_there and not coming.is_gone
            coming.known = coming.seen if coming.is_gone else coming.known
        return coming.is_gone

    def is_there(self, path: Path) -> bool:
        """Tell whether all of a file is there; files that nobody fetches always are."""
        coming = self._coming.get(path)
        return coming is None or coming.is_there

    def _pause(self) -> None:
        if self._cancelled():
            raise Cancelled("job.cancelled")
        time.sleep(_LOOK_S)

    def _copy(self, folder: Path, file: RemoteFile) -> None:
        while not store.is_ready(folder, file, store.ready_files(folder)):
            self._pause()
        copy = self.folder(folder) / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file.name, copy)
        _stamp(copy, file)

    def _has_come(self, coming: _Coming) -> bool:
        """Look, not too often, whether a file is proven; compare it with what was seen of it when it is."""
        if coming.differs:
            raise Differs(coming.file.name)
        if coming.is_there:
            return True
        if time.monotonic() - coming.looked < _LOOK_S:
            return False
        coming.looked = time.monotonic()
        if not store.is_ready(coming.folder, coming.file, store.ready_files(coming.folder)):
            return False
        coming.is_there, coming.differs = True, not _same_bytes(coming)
        return self._has_come(coming)

    def _has_piece(self, coming: _Coming, start: int, stop: int) -> bool:
        """Fetch what a stand-in lacks of a piece of whole blocks; tell whether it has it now."""
        if stop - start > _MOST:
            return False
        for gap in list(coming.known.gaps(start, stop)):
            coming.asks += 1
            coming.gives_pieces = coming.gives_pieces and coming.asks <= _ASKS and self._fetch(coming, *gap)
            if not coming.gives_pieces:
                return False
        return True

    def _fetch(self, coming: _Coming, start: int, stop: int) -> bool:
        """Put a piece into a stand-in; tell whether that worked. Whatever did not, the whole fetch will deal with."""
        try:
            with self._asking:
                data = self._ask(coming, start, stop)
        except (Trouble, Stopped):
            return False
        with writing(self._stage), coming.stand_in.open("r+b") as out:
            out.seek(start)
            out.write(data)
        _stamp(coming.stand_in, coming.file)
        coming.known.add(start, stop)
        time.sleep(min(self.bucket.take(len(data)), 1.0))
        return True

    def _ask(self, coming: _Coming, start: int, stop: int) -> bytes:
        """Return a piece of a file. Raises Trouble or Stopped."""
        reply = self._session.get(coming.url, {"Range": f"bytes={start}-{stop - 1}"}, token=coming.token)
        host, name, data = urlsplit(reply.url).netloc, coming.file.name, b""
        try:
            if reply.status == 206:
                body_start(206, reply.header, start, stop, size=coming.file.size, host=host, file=name)
                with blamed(host, self._session.stopped):
                    data = reply.read_all(stop - start)
        finally:
            reply.close()
        if len(data) != stop - start:
            raise Trouble(SourceError("download.no_ranges", host=host, file=name))
        coming.url = reply.url  # the next time straight to where the hub sent us
        return data


def _is_large(file: RemoteFile) -> bool:
    return file.size > _SMALL and file.name.endswith(WEIGHT_ENDINGS)


def _same_bytes(coming: _Coming) -> bool:
    with coming.real.open("rb", buffering=0) as real, coming.stand_in.open("rb", buffering=0) as seen:
        for start, stop in coming.known:
            for file in (real, seen):
                file.seek(start)
            if real.read(stop - start) != seen.read(stop - start):
                return False
    return True


def _stamp(path: Path, file: RemoteFile) -> None:
    """Give a file a time of change that stands for its bytes: a resumed job knows its sources by it."""
    at = int(hashlib.sha256(file.identity.encode()).hexdigest()[:12], 16) * 1000  # nanoseconds, within nine years
    os.utime(path, ns=(at, at))
