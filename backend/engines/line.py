"""The queue in front of the engine: bounded, fair between visitors, and able to say where somebody stands.

Every reply of the page and of the gateway passes here, so here they are counted, too. Knows nothing about pages or
HTTP.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

from backend.engines.adapters import Scales
from backend.engines.base import ChatEngine, ChatMessage, EngineStatus, Finish, Piece, Sampling, Usage, Waiting
from backend.engines.mixtures import mixture
from backend.engines.rota import CHAT, PROGRAM, Rota, Ticket
from backend.engines.tally import ENOUGH, Latest, Tally
from backend.errors import EngineError
from backend.settings import REPLY_S

TELL_S = 1.0  # how often somebody who waits is told where they stand
USUAL_SLOTS = 8  # as long as the engine has not said how many it has


@dataclass(frozen=True)
class Limits:
    """Requests: of one person, of all people at one place and of one program at once, and how many may wait.

    Programs leave room for people. A place has a limit because whoever throws cookies away is a new person each time.
    A reply that has not ended ``reply_s`` seconds after its turn came ends then (0: it may take for ever).
    """

    person: int = 4
    place: int = 32
    program: int = 32
    waiting: int = 64
    programs_waiting: int = 48
    reply_s: float = REPLY_S


@dataclass(frozen=True)
class Live:
    """How many wait, and what the last reply was like."""

    waiting: int = 0
    last: Latest = Latest()  # noqa: RUF009 - frozen


class Line:
    """One queue for one engine. Lives in one event loop."""

    def __init__(self, limits: Limits = Limits(), tally: Tally | None = None) -> None:
        self.tally = tally or Tally()
        self.reply_s = limits.reply_s
        self._limits = limits
        self._rota = Rota()
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._places: Counter[str] = Counter()
        self._numbers = count(1)
        self._mixture: Scales = ()  # of those who were called last

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._rota.waiting)

    @property
    def busy(self) -> int:
        """How many are being answered."""
        return sum(self._rota.by_kind.values())

    def live(self) -> "Live":
        """Return how the queue stands now."""
        return Live(self.waiting, self.tally.counts().last)

    def seat(self, engine: ChatEngine, who: str, *, program: bool = False, place: str = "") -> "Seat":
        """Return the engine as one asker gets it: through the queue. ``program`` is for whoever is no person.

        ``place`` is where a person comes from, empty for places without a limit.
        """
        return Seat(self, engine, who, kind=PROGRAM if program else CHAT, place=place)

    def join(self, who: str, kind: str, *, slots: int, place: str = "", mixture: Scales = ()) -> Ticket:
        """Queue up. ``mixture``: only replies of the same are under way together.

        Raises:
            EngineError: this asker or this place has enough under way, or too many wait already.
        """
        limits, rota = self._limits, self._rota
        most = limits.program if kind == PROGRAM else limits.person
        if rota.open_of(who) >= most:
            self.tally.refused("too_many")
            raise EngineError("ops.too_many", most=most)
        if place and self._places[place] >= limits.place:
            self.tally.refused("too_many_there")
            raise EngineError("ops.too_many_there", most=limits.place)
        if len(rota.waiting) >= (limits.programs_waiting if kind == PROGRAM else limits.waiting):
            self.tally.refused("queue_full")
            raise EngineError("engine.queue_full", waiting=len(rota.waiting))
        ticket = Ticket(who, kind, next(self._numbers), place, mixture)
        rota.join(ticket)
        self._places[place] += 1
        self._turns[ticket] = asyncio.get_running_loop().create_future()
        self.call(slots)
        return ticket

    def turn(self, ticket: Ticket) -> asyncio.Future[None]:
        """Return what is done when the ticket has been called."""
        return self._turns[ticket]

    def leave(self, ticket: Ticket, slots: int) -> None:
        """Give up a place, in the queue or at the engine, and call whoever may come now."""
        self._turns.pop(ticket).cancel()
        self._rota.leave(ticket)
        self._places[ticket.place] -= 1
        if not self._places[ticket.place]:
            del self._places[ticket.place]
        self.call(slots)

    def waiting_of(self, ticket: Ticket, status: EngineStatus) -> Waiting:
        """Return where a ticket stands, and how long the engine needs for those before it at its present speed."""
        place = self._rota.order().index(ticket) + 1
        mean = self.tally.counts().mean_tokens
        return Waiting(place, place * mean / status.tokens_per_s if status.tokens_per_s > 0 else 0.0)

    def call(self, slots: int) -> None:
        """Call as many as there are free slots. A quarter of the slots, one at least, is kept from programs."""
        rota = self._rota
        for_programs = slots - max(1, slots // 4) if slots > 1 else slots
        while self.busy < slots:
            beside = self._mixture if self.busy else None
            ticket = rota.call(programs=rota.by_kind[PROGRAM] < for_programs, beside=beside)
            if ticket is None:
                return
            self._mixture = ticket.mixture
            self._turns[ticket].set_result(None)


class Seat:
    """``ChatEngine`` for one asker. A person is told where they stand; a program is not."""

    def __init__(self, line: Line, engine: ChatEngine, who: str, *, kind: str, place: str) -> None:
        self._line, self._engine, self._who = line, engine, who
        self._kind, self._place = kind, place

    def status(self) -> EngineStatus:
        """Return the engine's status."""
        return self._engine.status()

    async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Wait for a turn, then stream one reply.

        Raises:
            EngineError: too many requests, or as the engine says.
            ContextFull, UsageError: as the engine says.
        """
        line, began = self._line, time.monotonic()
        wanted = mixture(self.status().options, sampling)
        ticket = line.join(self._who, self._kind, slots=self._slots(), place=self._place, mixture=wanted)
        told = _Told()
        try:
            while not line.turn(ticket).done():
                if self._kind == CHAT:
                    yield Piece(waiting=line.waiting_of(ticket, self.status()))
                await asyncio.wait((line.turn(ticket),), timeout=TELL_S)
                line.call(self._slots())  # an engine that was loaded meanwhile may have more of them
            line.tally.queued(time.monotonic() - began)
            stream = cast("AsyncGenerator[Piece, None]", self._engine.chat(messages, sampling))
            async with aclosing(stream) as pieces, aclosing(_in_time(pieces, line.reply_s)) as timed:
                async for piece in timed:
                    if told.take(piece):
                        told.waited = time.monotonic() - began
                        line.tally.first_token(told.waited)
                    told.alone = told.alone and line.busy == 1
                    yield piece
        except Exception:
            told.finish = Finish.ERROR
            raise
        finally:
            line.tally.reply(self._kind, told.finish, told.tokens)
            if told.tokens:
                line.tally.ended(told.latest(self.status().pid), **told.decoded())
            line.leave(ticket, self._slots())

    def _slots(self) -> int:
        return self._engine.status().slots or USUAL_SLOTS


async def _in_time(pieces: AsyncIterator[Piece], seconds: float) -> AsyncGenerator[Piece, None]:
    """Yield the pieces that come in time; when it is over, one that says so. The caller closes the source."""
    began = time.monotonic()
    end = asyncio.get_running_loop().time() + seconds if seconds else None
    tokens, first, last, told = 0, 0.0, 0.0, None
    while True:
        try:
            async with asyncio.timeout_at(end) as limit:
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            if not limit.expired():
                raise
            yield Piece("", tokens, Finish.TIME, told or Usage(0, tokens, max(0.0, first - began), last - first))
            return
        if piece.tokens > tokens:
            tokens, last = piece.tokens, time.monotonic()
            first, told = first or last, piece.usage
        yield piece


@dataclass
class _Told:
    """What a reply has been so far. Until it says why it ended, whoever leaves has stopped it."""

    tokens: int = 0
    finish: Finish = Finish.CANCELLED
    waited: float = 0.0  # seconds until the first token
    alone: bool = True  # nobody else was being answered
    usage: Usage = Usage()  # noqa: RUF009 - frozen

    def take(self, piece: Piece) -> bool:
        """Note a piece; tell whether it brought the first token."""
        first, self.usage = not self.tokens and piece.tokens > 0, piece.usage or self.usage
        self.tokens, self.finish = max(self.tokens, piece.tokens), piece.finish or self.finish
        return first

    def decoded(self) -> dict[str, Any]:
        """Return how many tokens came in how many seconds after the first one; nothing unless it was alone."""
        many, seconds = self.usage.completion_tokens - 1, self.usage.decode_s
        return {"tokens": many, "seconds": seconds} if self.alone and many > 0 else {}

    def latest(self, pid: int) -> Latest:
        """Return what there is to say of it, once it has ended; a speed only of more than a few words."""
        counts = self.alone and self.tokens >= ENOUGH
        return Latest(pid, self.usage.first_token_s or self.waited, self.usage.tokens_per_s if counts else 0.0)
