"""Who is called next: chats before programs, and everybody in turn. Pure bookkeeping; knows nothing about time or text.

Between the two kinds it is start-time fair queueing (Goyal, Vin, Cheng 1996) with weights, so that programs get their
share too but never hold up a chat; within a kind whoever has least under way comes first, then whoever was called
longest ago.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from backend.engines.adapters import Scales

CHAT, PROGRAM = "chat", "program"
WEIGHTS = {CHAT: 4.0, PROGRAM: 1.0}


@dataclass(eq=False)
class Ticket:
    """One request: who asks, of which kind, a number that grows with every request, where it comes from, and what must
    be the same of those that are answered beside it.
    """

    who: str
    kind: str
    number: int
    place: str = ""
    mixture: Scales = ()


@dataclass
class Rota:
    """The order in which tickets are called."""

    waiting: list[Ticket] = field(default_factory=list)
    active: Counter[str] = field(default_factory=Counter)  # by who
    by_kind: Counter[str] = field(default_factory=Counter)
    _called: dict[str, int] = field(default_factory=dict)  # when somebody was called last
    _finish: dict[str, float] = field(default_factory=dict)
    _now: float = 0.0
    _calls: int = 0
    _order: Sequence[Ticket] | None = None  # as long as nothing changes: everybody who waits asks for it

    def join(self, ticket: Ticket) -> None:
        """Put somebody into the queue. Whoever comes new counts as called now, or newcomers would always be first."""
        self._order = None
        self.waiting.append(ticket)
        self._called.setdefault(ticket.who, self._calls)

    def open_of(self, who: str) -> int:
        """Return how many requests somebody has under way or waiting."""
        return self.active[who] + sum(ticket.who == who for ticket in self.waiting)

    def call(self, *, programs: bool = True, beside: Scales | None = None) -> Ticket | None:
        """Call the next one; ``programs`` says whether there is room for one of them.

        ``beside``: the mixture that is being computed. Who has another waits until that is over, and so do all behind:
        else those who ask for it one after the other would keep everybody else waiting for ever.
        """
        kinds = [kind for kind in WEIGHTS if (programs or kind == CHAT) and self._has(kind)]
        if not kinds:
            return None
        start, kind = min((max(self._now, self._finish.get(kind, 0.0)), kind) for kind in kinds)
        ticket = min((one for one in self.waiting if one.kind == kind), key=self._rank)
        if beside is not None and ticket.mixture != beside:
            return None
        self._now, self._finish[kind] = start, start + 1 / WEIGHTS[kind]
        self._order = None
        self.waiting.remove(ticket)
        self._calls += 1
        self._called[ticket.who] = self._calls
        self.active[ticket.who] += 1
        self.by_kind[kind] += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take somebody out, who waits or was called."""
        self._order = None
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        else:
            self.active[ticket.who] -= 1
            self.by_kind[ticket.kind] -= 1
        if not self.open_of(ticket.who):
            self.active.pop(ticket.who, None)
            self._called.pop(ticket.who, None)

    def order(self) -> Sequence[Ticket]:
        """Return those who wait in the order in which they would be called if nobody else came."""
        if self._order is not None:
            return self._order
        rest = Rota(
            list(self.waiting), Counter(self.active), Counter(self.by_kind), dict(self._called), dict(self._finish),
            self._now, self._calls,
        )  # fmt: skip
        called = []
        while (ticket := rest.call()) is not None:
            called.append(ticket)
        self._order = called
        return called

    def _has(self, kind: str) -> bool:
        return any(ticket.kind == kind for ticket in self.waiting)

    def _rank(self, ticket: Ticket) -> tuple[int, int, int]:
        return self.active[ticket.who], self._called.get(ticket.who, 0), ticket.number
