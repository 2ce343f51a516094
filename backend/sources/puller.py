"""One thread's work: claim a range, ask for it, look at what the answer really is, write it down as it comes.

Knows nothing about other threads, sums or final names.
"""

import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from backend.errors import CriaError, SourceError
from backend.sources.board import Board, Claim
from backend.sources.listing import RemoteFile
from backend.sources.pace import Bucket, Watch
from backend.sources.ranges import body_start, strong_etag
from backend.sources.refusals import refusal
from backend.sources.retry import is_transient, retry_after
from backend.sources.trouble import Stopped, Trouble
from backend.sources.wire import Reply, Session, blamed

_NOTE_LEAST, _NOTE_MOST, _NOTE_S = 1 << 15, 1 << 20, 0.005  # how often the journal hears of bytes: what a kill costs
_GOOD = 1 << 20  # bytes after which a server has proven itself


@dataclass(frozen=True)
class Patience:
    """When a connection is given up: ``floor`` bytes a second are too slow, over ``window_s`` seconds."""

    window_s: float
    floor: float


class Puller:
    """Takes ranges from ``board`` until there are none or it is told to stop."""

    def __init__(self, board: Board, session: Session, bucket: Bucket, patience: Patience) -> None:
        self._board, self.session, self._bucket, self._patience = board, session, bucket, patience
        self._view = memoryview(bytearray(bucket.portion))

    def run(self) -> None:
        """Work until the board says stop; what nobody can mend ends the fetch."""
        try:
            while not self._board.stopped.is_set():
                claim = self._board.claim()
                if claim is None:
                    self._board.wait()
                    continue
                try:
                    self._pull(claim)
                    self._board.worked(claim)
                except Trouble as trouble:
                    self._board.troubled(claim, trouble)
                finally:
                    self._board.release(claim)
        except Stopped:
            pass
        except CriaError as error:
            self._board.fail(error)
        finally:
            self.session.close()

    def _pull(self, claim: Claim) -> None:
        remote, size = claim.place.files[claim.part.file.name], claim.part.size
        kept = self._board.locations.get(claim.key)
        url, headers = kept or remote.url, {}
        if not claim.whole and (claim.start, claim.stop) != (0, size):
            headers["Range"] = f"bytes={claim.start}-{claim.stop - 1}"
            if etag := self._board.etags.get(claim.key) or remote.etag:
                headers["If-Range"] = etag
        reply = self.session.get(url, headers, token=claim.place.token)
        try:
            start = self._look(claim, reply, remote, is_kept=kept is not None)
            self._copy(claim, reply, start)
        finally:
            reply.close()

    def _look(self, claim: Claim, reply: Reply, remote: RemoteFile, *, is_kept: bool) -> int:
        """Return where in the file the body begins, after making sure that it is of this file."""
        host, name, status = urlsplit(reply.url).netloc, claim.part.file.name, reply.status
        if status == 416:
            self._board.ignored_range(claim)
            raise Trouble(SourceError("download.wrong_reply", host=host, file=name, what="416"), strike=True)
        if status not in (200, 206):
            if is_kept:  # the signature of an address that we were led to has run out
                self._board.locations.pop(claim.key, None)
            raise _refused(claim, reply, host, is_kept=is_kept)
        etag = strong_etag(reply.header)
        if remote.etag and etag and etag != remote.etag:
            raise Trouble(SourceError("download.changed", host=host, file=name), hopeless=True)
        start = body_start(status, reply.header, claim.start, claim.stop, size=claim.part.size, host=host, file=name)
        if start < claim.start:
            self._board.ignored_range(claim)
            raise Trouble(SourceError("download.no_ranges", host=host, file=name))
        if etag:
            self._board.etags[claim.key] = etag
        if reply.url != remote.url:
            self._board.locations[claim.key] = reply.url
        return start

    def _copy(self, claim: Claim, reply: Reply, position: int) -> None:
        """Write the body to its place, and note it often enough that a kill loses little."""
        board, part, host = self._board, claim.part, urlsplit(reply.url).netloc
        watch = Watch(floor=self._patience.floor, window_s=self._patience.window_s)
        noted, view = position, self._view
        try:
            while position < claim.stop and not board.is_retired(part):
                before = time.monotonic()
                with blamed(host, board.stopped.is_set):
                    data = view[: reply.read_into(view[: min(len(view), claim.stop - position)])]
                now = time.monotonic()
                if board.stopped.is_set():
                    raise Stopped
                if not data:
                    raise Trouble(SourceError("download.cut", host=host, file=part.file.name))
                self._keep(claim, position, data)
                position += len(data)
                claim.position, board.last_byte = position, now
                if position - noted >= _enough(claim, now):
                    self._note(claim, noted, position)
                    noted = position
                if watch.waited(now - before, len(data)):
                    raise Trouble(SourceError("download.slow", host=host, file=part.file.name))
                if pause := self._bucket.take(len(data)):
                    board.stopped.wait(pause)
        finally:
            self._note(claim, noted, position)

    def _keep(self, claim: Claim, position: int, data: memoryview) -> None:
        if not claim.whole:
            claim.part.write(position, data)
            return
        for start, stop in claim.part.gaps():  # a whole file comes again: what is there already is left alone
            a, b = max(start, position), min(stop, position + len(data))
            if a < b:
                claim.part.write(a, data[a - position : b - position])

    def _note(self, claim: Claim, start: int, stop: int) -> None:
        claim.part.record(start, stop)
        if stop - claim.start >= _GOOD:
            self._board.worked(claim)


def _enough(claim: Claim, now: float) -> int:
    """Return how many bytes to write before the journal hears of them: few, though not a line every microsecond."""
    speed = (claim.position - claim.start) / max(now - claim.began, 0.001)
    return min(_NOTE_MOST, max(_NOTE_LEAST, int(speed * _NOTE_S)))


def _refused(claim: Claim, reply: Reply, host: str, *, is_kept: bool) -> Trouble:
    status, listing = reply.status, claim.place.listing
    if is_transient(status):
        key = "download.busy" if status == 429 else "download.server"
        return Trouble(SourceError(key, host=host, status=status), wait_s=retry_after(reply.header("Retry-After")))
    page = f"{listing.endpoint}/{listing.repository}"
    error = refusal(status, reply.header("X-Error-Code"), host=host, repository=listing.repository, page=page,
                    has_token=claim.place.token is not None)  # fmt: skip
    return Trouble(error, hopeless=not is_kept)
