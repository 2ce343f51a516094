"""The threads of one fetch: some take ranges of files from servers, one sums up what has come and publishes it.

Knows nothing about locks between processes, caches, or what a job is.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from backend.errors import CriaError, SourceError
from backend.sources.board import Board
from backend.sources.part import Part, State
from backend.sources.puller import Puller
from backend.text import Message

_JOIN_S = 0.8


class Transfer:
    """Fetches the parts of ``board`` into ``folder``; ``published`` is called, from a thread, with each one that is."""

    def __init__(self, board: Board, pullers: list[Puller], *, folder: Path, published: Callable[[Part], None]) -> None:
        self._board, self._pullers, self._folder, self._published = board, pullers, folder, published
        self._left = list(board.parts)
        self._told: set[Part] = set()
        self.finished = threading.Event()  # every file has its name, or it will not come to that
        # Daemons: one that hangs where it cannot be woken, as in finding an address, must not keep the process.
        self._threads = [threading.Thread(target=puller.run, daemon=True) for puller in pullers]
        self._threads.append(threading.Thread(target=self._sum_up, daemon=True))

    def __enter__(self) -> "Transfer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._board.stop()
        for puller in self._pullers:
            puller.session.abort()
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            for part in self._board.parts:  # else a file may still be written to, and is closed when the process ends
                part.close()

    def _sum_up(self) -> None:
        try:
            while self._left and not self._board.stopped.is_set():
                worked = next((part for part in self._left if part.sum_up()), None)
                for part in [worked] if worked else list(self._left):
                    self._settle(part)
                if not worked:
                    self._board.wait()
        except CriaError as error:
            self._board.fail(error)
        finally:
            self.finished.set()

    def _settle(self, part: Part) -> None:
        """Publish a part that is right, tell of one that is not, give up one that cannot be."""
        state, name = part.state(), part.file.name
        if state is State.RIGHT and self._board.retire(part):
            if part.repaired:
                self._tell(Message("download.repaired", {"file": name, "count": part.repaired}))
            if part.expected is None:
                self._tell(Message("download.unproven", {"file": name, "sha256": part.digest()}))
            part.publish(self._folder)
            self._published(part)
            self._left.remove(part)
        elif state is State.WRONG:
            part.discard()
            raise SourceError("download.wrong_bytes", file=name, want=part.expected, have=part.digest())
        elif part.comparing and part not in self._told:
            self._told.add(part)
            self._tell(Message("download.second_look", {"file": name}))

    def _tell(self, message: Message) -> None:
        self._board.logs.append(message)
