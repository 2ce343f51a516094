"""Which of llama.cpp's slots computes a prompt: where the least is computed again, now and by those who come back.

Left to itself, llama.cpp takes the slot whose prompt begins most like the new one. People with the same system prompt
would then take turns in one slot, each throwing the other's conversation away, with the slots beside it empty. Also
kept here: whose beginning somebody else could use, and who waits for it. Knows nothing about servers or text.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backend.engines.adapters import Scales

ANY = -1  # llama.cpp's word for a slot of its own choice
_LOOK_S = 0.1  # how often somebody who waits looks whether that is still wanted


@dataclass
class Seat:
    """What a slot reads or read last, computed with which adapters, and when: the number of the request."""

    ids: tuple[int, ...] = ()
    scales: Scales = ()
    at: int = 0
    taken: bool = False
    read: int = 0  # tokens of ``ids`` that are in the slot
    begun: bool = False  # the reply has begun: nothing may interrupt it
    fork: int = 0  # tokens that it has in common with what was in the slot before, where that went on otherwise
    retuned: bool = False  # nothing was computed yet with these adapters: the slot still has others
    wanted: int = 0  # a copy of so many tokens is wanted
    closed: bool = False  # there was no making one


class Seats:
    """The slots, numbered as llama.cpp numbers them. Thread-safe."""

    def __init__(self, count: int) -> None:
        self._seats = [Seat() for _ in range(count)]
        self._requests = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._seats)

    def take(self, ids: Sequence[int], scales: Scales, *, known: int = 0, gone: Callable[[], bool] = bool) -> int:
        """Return the slot for a prompt, as soon as one is free; the caller gives it back. ``ANY``: there are none, or
        the request is ``gone``. ``known``: tokens of it that can be brought into any slot.
        """
        with self._changed:
            self._requests += 1
            while not (free := [number for number, seat in enumerate(self._seats) if not seat.taken]):
                if not self._seats or gone():
                    return ANY
                self._changed.wait(_LOOK_S)
            best = min(free, key=lambda number: self._cost(self._seats[number], ids, scales, known))
            old, kept = self._seats[best], _kept(self._seats[best], ids, scales)
            self._seats[best] = Seat(
                tuple(ids), scales, self._requests, taken=True, read=kept, fork=kept if kept < old.read else 0,
                retuned=old.retuned or old.scales != scales,
            )  # fmt: skip
            return best

    def give_back(self, number: int) -> None:
        """Take note that a slot's reply is over, or that it has been copied; what it read stays in it."""
        with self._changed:
            if number != ANY:
                self._seats[number].taken = False
            self._changed.notify_all()

    def note(self, number: int, read: int, *, begun: bool) -> bool:
        """Take note of how much of its prompt a slot has; tell whether it should pause, so that it can be copied."""
        if number == ANY:
            return False
        with self._changed:
            seat = self._seats[number]
            seat.read, seat.retuned = min(read, len(seat.ids)), False
            if begun and not seat.begun:
                seat.begun = True
                self._changed.notify_all()  # who waited for a copy gets none
            return bool(seat.wanted) and not begun

    def state(self, number: int) -> Seat:
        """Return what is known of a slot."""
        with self._changed:
            return replace(self._seats[number])

    def elsewhere(self, ids: Sequence[int], scales: Scales) -> int:
        """Return how many tokens of a prompt some slot can offer, now or soon."""
        with self._changed:
            return max((_offered(seat, ids, scales) for seat in self._seats), default=0)

    def borrow(self, number: int, least: int) -> tuple[int, int, bool] | None:
        """Return which other slot offers most of a slot's prompt, how many tokens, and whether it is idle; None where
        that is less than ``least``.

        An idle one is taken; the caller gives it back. One at work is told what is wanted. It came before this one: so
        nobody waits for somebody who waits for them.
        """
        with self._changed:
            mine = self._seats[number]
            offers = [
                (_offered(seat, mine.ids, mine.scales), not seat.taken, seat.read, other)
                for other, seat in enumerate(self._seats)
                if seat.at < mine.at
            ]
            common, idle, _, other = max(offers, default=(0, False, 0, ANY))
            if common < max(1, least):
                return None
            if idle:
                self._seats[other].taken = True
            else:
                self._seats[other].wanted = max(self._seats[other].wanted, common)
            return other, common, idle

    def wait(self) -> None:
        """Wait a little, or until something has changed."""
        with self._changed:
            self._changed.wait(_LOOK_S)

    def asked_before(self, number: int) -> int:
        """Return how many tokens of a slot's prompt others have asked for, too, of which it has none but those."""
        with self._changed:
            mine = self._seats[number]
            others = (seat.ids for seat in self._seats if seat is not mine and seat.scales == mine.scales)
            most = max(mine.fork, *(shared(ids, mine.ids) for ids in others), 0)
            return most if mine.read <= most else 0

    def want(self, number: int, tokens: int) -> None:
        """Note that a copy of a slot's first tokens is wanted; 0: none any more."""
        with self._changed:
            self._seats[number].wanted = tokens

    def copied(self, number: int, *, done: bool) -> None:
        """Take note that a slot was copied, or could not be."""
        with self._changed:
            self._seats[number].wanted, self._seats[number].closed = 0, not done
            self._changed.notify_all()

    def _cost(self, seat: Seat, ids: Sequence[int], scales: Scales, known: int) -> float:
        """Return the tokens to compute now, and those that whoever sat there has to compute again, should they return:
        half as likely with every round of requests that went by without them."""
        kept = _kept(seat, ids, scales)
        rounds = (self._requests - seat.at) / len(self._seats)
        return len(ids) - max(kept, known) + (seat.read - kept) * float(0.5**rounds)


def _kept(seat: Seat, ids: Sequence[int], scales: Scales) -> int:
    return min(seat.read, shared(seat.ids, ids)) if seat.scales == scales else 0


def _offered(seat: Seat, ids: Sequence[int], scales: Scales) -> int:
    """Return how many tokens of a prompt a slot has while it is idle, or will have before its reply begins."""
    if not seat.taken:
        return _kept(seat, ids, scales)
    return 0 if seat.begun or seat.closed or seat.scales != scales else shared(seat.ids, ids)


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two prompts begin with in common."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))
