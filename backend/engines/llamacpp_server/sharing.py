"""A beginning that several people share (a system prompt, earlier turns) is computed in one slot and copied to others.

llama.cpp shares nothing between slots. So who comes while another slot reads the same beginning waits for it; that
slot pauses, is copied, and goes on where it was. A beginning that is asked for again, with another end, is kept in a
file from then on. A copy holds the tokens with what was computed of them, and llama.cpp compares these: nobody's text
reaches another. Knows nothing about text or how a reply is read.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from backend.engines.adapters import Scales
from backend.engines.llamacpp_server.copies import Copies
from backend.engines.llamacpp_server.seats import ANY, Seats

WORTH = 128  # tokens. To copy so many takes 3 ms; to compute them 6 (the demo, 5 MB) or 1300 (1.1 billion, 4 bits)
Read = Callable[[int, Sequence[int]], bool]  # lets a slot read a prompt without a reply; tells whether it did


class Sharing:
    """Slots, and copies between them where there can be any. Thread-safe; every request comes in its own thread."""

    def __init__(self, seats: Seats, copies: Copies | None = None) -> None:
        self._seats, self._copies = seats, copies

    def take(self, ids: Sequence[int], scales: Scales, *, read: Read, gone: Callable[[], bool]) -> int:
        """Return a slot that has as much of a prompt as there is anywhere; the caller gives it back, unless it is
        ``ANY``, as ``Seats.take`` says. ``gone``: whether nobody waits for this request any more.
        """
        copies = self._copies
        if copies is None or len(ids) < WORTH:
            return self._seats.take(ids, scales, gone=gone)
        known = max(copies.known(ids, scales), self._seats.elsewhere(ids, scales))
        number = self._seats.take(ids, scales, known=known - WORTH, gone=gone)  # less what copying costs
        if number == ANY:
            return ANY
        with ExitStack() as failing:
            failing.callback(self._seats.give_back, number)
            while not gone() and self._bring(copies, number, read):
                pass
            seen = self._seats.asked_before(number)
            if seen >= copies.known(ids, scales) + WORTH:
                self._seats.want(number, seen)
            failing.pop_all()
        return number

    def note(self, number: int, tokens: int, *, begun: bool) -> bool:
        """Take note of how much of its prompt a slot has; tell whether it should pause, for ``give_copy``."""
        return self._seats.note(number, tokens, begun=begun)

    def give_back(self, number: int) -> None:
        """Take note that a slot's reply is over."""
        self._seats.give_back(number)

    def give_copy(self, number: int, read: Read) -> bool:
        """Copy the beginning of a slot's prompt if somebody waits for that; tell whether somebody did.

        Between two of its requests, when llama.cpp lets go of it.
        """
        if number == ANY or self._copies is None:
            return False
        seat = self._seats.state(number)
        if not seat.wanted:
            return False
        beginning = seat.ids[: max(seat.wanted, seat.read)]  # so that it ends there, and what it has read stays
        has_one = self._copies.known(seat.ids, seat.scales) >= seat.wanted
        done = has_one or (read(number, beginning) and self._copies.keep(number, beginning, scales=seat.scales))
        self._seats.copied(number, done=done)
        return True

    def _bring(self, copies: Copies, number: int, read: Read) -> bool:
        """Bring something into a slot, or wait a little for it; tell whether there may be more."""
        seat = self._seats.state(number)
        least = seat.read + WORTH
        kept = copies.known(seat.ids, seat.scales) >= least
        found = None if kept else self._seats.borrow(number, least)
        if not kept and found is None:
            return False
        if found is not None and not found[2]:
            self._seats.wait()
            return True
        # llama.cpp throws away what a slot has once it hears of other adapters: it has to hear of them before.
        tuned = not seat.retuned or read(number, seat.ids[:1])
        if found is None:
            if tuned:
                self._seats.note(number, copies.bring(number, seat.ids, scales=seat.scales), begun=False)
            return tuned
        other, common, _ = found
        try:
            got = copies.hand_over(other, number) if tuned else 0
        finally:
            self._seats.give_back(other)
        if tuned:
            self._seats.note(number, min(got, common), begun=False)
        return got >= least
