"""Several works at once, each a generator of events in a thread of its own, told as one. Knows nothing about them."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping

from backend.events import Event

Work = Callable[[], Iterator[Event]]
_WAKE_S = 0.2  # a signal reaches Python only between two waits
_JOIN_S = 0.8


class Halt:
    """Answers "should I stop?" for works that belong together: yes once somebody asked, or one of them has failed."""

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._cancelled, self._set = cancelled, threading.Event()

    def __call__(self) -> bool:
        return self._set.is_set() or self._cancelled()

    def set(self) -> None:
        """Stop them all."""
        self._set.set()


def together(works: Mapping[str, Work], halt: Halt) -> Iterator[tuple[str, Event | None]]:
    """Run all works at once; yield the name of one with an event of it, with None when it has ended.

    The first that fails stops the others and raises here. Each work asks ``halt`` whether to stop.
    """
    told = queue.SimpleQueue[tuple[str, Event | Exception | None]]()

    def run(name: str, work: Work) -> None:
        try:
            for event in work():
                told.put((name, event))
            told.put((name, None))
        except Exception as problem:  # noqa: BLE001 - it is raised where the events are told
            told.put((name, problem))

    # Daemons: one that hangs in the network must not keep the process.
    threads = [threading.Thread(target=run, args=pair, daemon=True, name=pair[0][:30]) for pair in works.items()]
    left = len(threads)
    try:
        for thread in threads:
            thread.start()
        while left:
            try:
                name, what = told.get(timeout=_WAKE_S)
            except queue.Empty:
                continue
            if isinstance(what, Exception):
                raise what
            left -= what is None
            yield name, what
    finally:
        halt.set()
        for thread in threads:
            thread.join(_JOIN_S)
