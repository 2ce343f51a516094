"""Which of llama.cpp's slots computes a prompt: where the least is computed again, now and by those who come back.

Left to itself, llama.cpp takes the slot whose prompt begins most like the new one. People with the same system prompt
would then take turns in one slot, each throwing the other's conversation away, with the slots beside it empty. Knows
nothing about servers or text.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from backend.engines.adapters import Scales

ANY = -1  # llama.cpp's word for a slot of its own choice


@dataclass
class _Seat:
    """What a slot read last, computed with which adapters, and when: the number of the request."""

    ids: tuple[int, ...] = ()
    scales: Scales = ()
    at: int = 0
    taken: bool = False


class Seats:
    """The slots, numbered as llama.cpp numbers them. Thread-safe."""

    def __init__(self, count: int) -> None:
        self._seats = [_Seat() for _ in range(count)]
        self._requests = 0
        self._lock = threading.Lock()

    def take(self, ids: Sequence[int], scales: Scales) -> int:
        """Return the slot for a prompt, ``ANY`` when all are at work; the caller gives it back."""
        with self._lock:
            self._requests += 1
            free = [number for number, seat in enumerate(self._seats) if not seat.taken]
            if not free:
                return ANY
            best = min(free, key=lambda number: self._cost(self._seats[number], ids, scales))
            self._seats[best] = _Seat(tuple(ids), scales, self._requests, taken=True)
            return best

    def give_back(self, number: int) -> None:
        """Take note that a slot's reply is over; what it read stays in it."""
        with self._lock:
            if number != ANY:
                self._seats[number].taken = False

    def _cost(self, seat: _Seat, ids: Sequence[int], scales: Scales) -> float:
        """Return the tokens to compute now, and those that whoever sat there has to compute again, should they return:
        half as likely with every round of requests that went by without them."""
        kept = _shared(seat.ids, ids) if seat.scales == scales else 0
        rounds = (self._requests - seat.at) / len(self._seats)
        return len(ids) - kept + (len(seat.ids) - kept) * float(0.5**rounds)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two prompts begin with in common."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))
