"""One file on its way: bytes at their places on the disk, what is known of them, the sum that follows them.

Bytes may come in any order and from several threads. When the whole sum is not what was promised, the file is not
thrown away: it is compared with a second copy as that arrives, and only what differs is replaced. Knows nothing about
networks.
"""

import errno
import os
import threading
from enum import Enum
from pathlib import Path

from backend.sources.chain import MARK, Chain
from backend.sources.disk import writing
from backend.sources.extents import Extents, Span
from backend.sources.listing import RemoteFile
from backend.sources.progress_journal import Known, ProgressJournal, believable, read_journal
from backend.storage import PART, sync_folder

JOURNAL = ".journal"
_BLOCK = 1 << 20
_ROUNDS = 3  # second copies that are looked at before the sources are called wrong


class State(Enum):
    """How far a part is."""

    GROWING = "growing"  # bytes or sums are missing
    RIGHT = "right"  # every byte is there and proven
    WRONG = "wrong"  # every copy there is differs from what was promised


class Part:
    """An unfinished file in ``folder``. Public methods may be called from any thread, ``sum_up`` from one only."""

    def __init__(self, folder: Path, file: RemoteFile, *, mark: int = MARK) -> None:
        self.file, self.size = file, file.size
        self.path, journal = folder / f"{file.name}{PART}", folder / f"{file.name}{JOURNAL}"
        self._journal_path = journal
        known = read_journal(journal, file.size, file.identity)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        there = os.fstat(self._file).st_size
        known.have.remove(min(there, file.size), file.size)
        if there != file.size:
            os.ftruncate(self._file, file.size)
        self._have, self._compared, self._sums = known.have, known.compared, known.sums
        self.comparing, self._changed, self._rounds = known.comparing, known.comparing, 1
        self._chain = Chain(file.size, git=file.sha256 is None and file.git_sha1 is not None, mark=mark)
        self._doubted: set[int] = set()
        self._lock, self._turn = threading.RLock(), 0
        self._buffer = memoryview(bytearray(min(_BLOCK, max(file.size, 1))))
        self.repaired = 0  # bytes that were bad and were replaced
        self._journal = self._new_journal()

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return self._have.total

    def gaps(self) -> list[Span]:
        """Return what is still to be fetched; while comparing, what to fetch again, unless the last find settles it."""
        with self._lock:
            if self.comparing and self._chain.position < self.size:
                return []
            return list((self._compared if self.comparing else self._have).gaps(0, self.size))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put bytes at their place; while comparing, only where they differ from what is there.

        Raises:
            MachineError: the disk is full or cannot be written.
        """
        with writing(self.path.parent):
            if self.comparing and os.pread(self._file, len(data), offset) == data:
                return
            view = memoryview(data)
            while view:
                view = view[os.pwrite(self._file, view, offset + len(data) - len(view)) :]
        if self.comparing:
            with self._lock:
                self.repaired, self._changed, self._turn = self.repaired + len(data), True, self._turn + 1
                self._chain.rewind(offset)
                self._disbelieve(self._chain.last_mark)

    def record(self, start: int, stop: int) -> None:
        """Note that these bytes were written, or compared; a killed process does not lose them from here on."""
        if start >= stop:
            return
        with self._lock, writing(self.path.parent):
            (self._compared if self.comparing else self._have).add(start, stop)
            self._line(f"{'c' if self.comparing else '+'} {start} {stop}")

    def sum_up(self) -> bool:
        """Add the next bytes that are there to the sum; return whether there were any."""
        with self._lock:
            start, turn = self._chain.position, self._turn
            stop = min(self._have.reach(start), self._chain.next_mark, start + len(self._buffer))
        if stop <= start:
            return False
        with writing(self.path.parent):
            count = os.preadv(self._file, [self._buffer[: stop - start]], start)
            if not count:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            with self._lock:
                if turn == self._turn:  # else what was read has changed meanwhile
                    digest = self._chain.update(self._buffer[:count])
                    if digest is not None and stop < self.size:
                        self._at_mark(stop, digest)
        return True

    def _at_mark(self, offset: int, digest: str) -> None:
        """Compare the sum at a mark with the one of an earlier run: the disk may have lost what it was given."""
        expected = self._sums.get(offset)
        if expected is None:
            self._sums[offset] = digest
            self._line(f"= {offset} {digest}")
        elif expected != digest and (self.comparing or offset in self._doubted):
            # The same again, so it was the old sum that was wrong; and a comparison finds all that differs anyway.
            self._disbelieve(offset - 1)
            self._at_mark(offset, digest)
        elif expected != digest:
            self._doubted.add(offset)
            self._chain.rewind(offset - 1)
            start = self._chain.last_mark
            self._have.remove(start, offset)
            self.repaired += offset - start
            self._line(f"- {start} {offset}")

    def _new_journal(self) -> ProgressJournal:
        known = Known(self._have, self._compared, self._sums, self.comparing)
        return ProgressJournal(self._journal_path, self.size, self.file.identity, known)

    def _line(self, text: str) -> None:
        self._journal.line(text)
        if self._journal.is_long:
            full, self._journal = self._journal, self._new_journal()
            full.close()

    def _disbelieve(self, offset: int) -> None:
        self._sums = believable(self._sums, offset)
        self._line(f"x {offset}")

    def state(self) -> State:
        """Return how far it is; a wrong sum starts the comparison with a second copy, at most a few times."""
        with self._lock, writing(self.path.parent):
            if self._chain.position < self.size:
                return State.GROWING
            if self.digest() == self.expected or self.expected is None:
                return State.RIGHT
            if self.comparing and self.gaps():
                return State.GROWING
            if self.comparing and (not self._changed or self._rounds >= _ROUNDS):
                return State.WRONG
            self._rounds += self.comparing
            self.comparing, self._changed, self._compared = True, False, Extents()
            self._line("r")
            return State.GROWING

    @property
    def expected(self) -> str | None:
        """The sum that the file was published with."""
        return self.file.sha256 or self.file.git_sha1

    def digest(self) -> str:
        """Return the sum over everything that was summed up."""
        return self._chain.digest()

    def publish(self, folder: Path) -> None:
        """Make the bytes durable and give the file its name in ``folder``.

        Raises:
            MachineError: the disk refuses; after a failed sync nothing of the file can be trusted, so it is gone.
        """
        final = folder / self.file.name
        with writing(folder):
            try:
                os.fsync(self._file)
            except OSError:
                self.discard()
                raise
            self.path.rename(final)
            sync_folder(folder)
            self._journal_path.unlink(missing_ok=True)
        self.close()

    def discard(self) -> None:
        """Forget everything: what is there is of no use."""
        self._journal_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._journal.close()
            self._file = -1
