"""The queue in front of the engine: order, limits, what people are told, and what is counted."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engines import line as module
from backend.engines.base import (
    ChatMessage,
    EngineOptions,
    EngineState,
    EngineStatus,
    Finish,
    Lora,
    Piece,
    Sampling,
    Usage,
)
from backend.engines.line import Limits, Line
from backend.engines.rota import CHAT, PROGRAM, Rota, Ticket
from backend.engines.tally import Histogram, Latest, Tally
from backend.errors import EngineError, UsageError

ASK = [ChatMessage("user", "hi")]


class Engine:
    """Answers when it is told to; at most ``slots`` at once is the queue's business, and is checked."""

    def __init__(self, slots: int, rate: float = 10.0) -> None:
        self.slots, self.rate = slots, rate
        self.go = asyncio.Event()
        self.active = self.most = 0

    def status(self) -> EngineStatus:
        return EngineStatus(EngineState.READY, "toy", slots=self.slots, tokens_per_s=self.rate)

    async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
        self.active += 1
        self.most = max(self.most, self.active)
        try:
            await self.go.wait()
            yield Piece("a", 1)
            yield Piece("", 20, Finish.STOP, Usage(1, 20))
        finally:
            self.active -= 1


def _rota(*asked: str) -> Rota:
    """Return a rota with tickets: ``a`` is a chat of a, ``+a`` a program's."""
    rota = Rota()
    for number, who in enumerate(asked):
        rota.join(Ticket(who, PROGRAM if who[0] == "+" else CHAT, number))
    return rota


@pytest.mark.parametrize(
    ("asked", "called"),
    [
        ("a b c", "a b c"),
        ("a a a b", "a b a a"),
        ("a a b b c", "a b c a b"),
        ("+x +x +x +x +x a", "a +x +x +x +x +x"),
        ("+x +y a b c d e", "a +x b c d e +y"),
        ("", ""),
    ],
)
def test_the_order(asked: str, called: str) -> None:
    rota = _rota(*asked.split())
    assert [ticket.who for ticket in rota.order()] == called.split()
    assert len(rota.waiting) == len(asked.split())  # looking ahead changes nothing


@given(st.lists(st.sampled_from(("a", "b", "+x", "+y", "+z")), max_size=30))
def test_everybody_is_called_once_and_a_chat_never_waits_for_two_programs_in_a_row(asked: list[str]) -> None:
    rota = _rota(*asked)
    order = rota.order()
    assert sorted(ticket.number for ticket in order) == list(range(len(asked)))
    kinds = [ticket.kind for ticket in order]
    last_chat = max((at for at, kind in enumerate(kinds) if kind == CHAT), default=0)
    assert (PROGRAM, PROGRAM) not in set(pairwise(kinds[:last_chat]))


def test_whoever_was_served_last_waits_for_the_others_also_when_done() -> None:
    rota = _rota("a", "a", "b")
    first = rota.call()
    assert first is not None
    rota.leave(first)
    second = rota.call()
    assert second is not None
    assert second.who == "b"
    for ticket in (second, *rota.waiting):
        rota.leave(ticket)
    assert not rota.active
    assert not rota._called


def test_newcomers_never_keep_somebody_waiting_who_was_here_before() -> None:
    rota = _rota("a", "a")
    first = rota.call()
    assert first is not None
    rota.leave(first)  # a still waits with a second request, and was called before
    for number in range(5):
        rota.join(Ticket(f"new {number}", CHAT, 10 + number))
    called = [rota.call() for _ in range(3)]
    assert "a" in [ticket.who for ticket in called if ticket]


async def _all(line: Line, engine: Engine, who: str, *, program: bool = False) -> list[Piece]:
    async with aclosing(line.seat(engine, who, program=program).chat(ASK, Sampling())) as pieces:
        return [piece async for piece in pieces]


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_people_are_told_their_place_and_programs_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        line, engine = Line(), Engine(1)
        line.tally.reply(CHAT, "stop", 20)
        work = [asyncio.create_task(_all(line, engine, who)) for who in "abc"]
        await _settle()
        work.append(asyncio.create_task(_all(line, engine, "p", program=True)))
        await _settle()
        assert (engine.active, line.waiting) == (1, 3)
        engine.go.set()
        first, second, third, program = await asyncio.gather(*work)
        assert engine.most == 1
        assert [piece.waiting for piece in first] == [None, None]
        assert second[0].waiting == module.Waiting(1, 2.0)  # 20 tokens a reply at 10 tokens a second
        assert third[0].waiting == module.Waiting(2, 4.0)
        assert all(piece.waiting is None for piece in program)
        counts = line.tally.counts()
        assert counts.replies == {(CHAT, "stop"): 4, (PROGRAM, "stop"): 1}
        assert (counts.tokens, sum(counts.first_token.counts), sum(counts.queue.counts)) == (100, 4, 4)

    monkeypatch.setattr(module, "TELL_S", 60.0)
    asyncio.run(run())


def test_a_mixture_that_cannot_be_computed_beside_the_others_waits_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp computes one mixture of LoRAs at a time: who has to wait for that stands in the queue, and is told."""

    class Mixing(Engine):
        computed = "llamacpp"

        def status(self) -> EngineStatus:
            options = EngineOptions(engine=self.computed, loras=(Lora("/loras/ada"), Lora("/loras/bob", 0.5)))
            return replace(super().status(), options=options)

    ada, usual = (("ada", 1.0),), (("ada", 1.0), ("bob", 0.5))

    async def run() -> None:
        line, engine = Line(), Mixing(8)

        async def ask(who: str, loras: tuple[tuple[str, float], ...] | None) -> list[Piece]:
            async with aclosing(line.seat(engine, who).chat(ASK, Sampling(loras=loras))) as pieces:
                return [piece async for piece in pieces]

        asked = (("a", ada), ("b", ada), ("c", None), ("d", ada), ("e", usual))
        work = [asyncio.create_task(ask(*one)) for one in asked]
        await _settle()
        assert (engine.active, line.waiting, line.live().waiting) == (2, 3, 3)  # d asks for the same as a, but after c
        with pytest.raises(UsageError):
            await ask("x", (("eve", 1.0),))
        engine.go.set()
        told = await asyncio.gather(*work)
        assert [pieces[0].waiting and pieces[0].waiting.place for pieces in told] == [None, None, 1, 2, 3]
        assert line.waiting == line.busy == 0
        engine.go.clear()
        engine.computed = "transformers"  # any mixtures in one batch
        work = [asyncio.create_task(ask(*one)) for one in asked]
        await _settle()
        assert (engine.active, line.waiting) == (5, 0)
        engine.go.set()
        await asyncio.gather(*work)

    monkeypatch.setattr(module, "TELL_S", 60.0)
    asyncio.run(run())


def test_of_two_mixtures_nobody_is_passed_over_for_ever() -> None:
    rota = Rota()
    for number, (who, mixture) in enumerate((("a", (1.0,)), ("b", (2.0,)), ("c", (1.0,)))):
        rota.join(Ticket(who, CHAT, number, mixture=mixture))
    first = rota.call()
    assert first is not None
    assert [ticket.who for ticket in rota.order()] == ["b", "c"]
    assert rota.call(beside=first.mixture) is None  # although c could come in
    rota.leave(first)
    called = rota.call()
    assert called is not None
    assert called.who == "b"


def test_limits_say_so_and_places_come_back() -> None:
    async def run() -> None:
        line, engine = Line(Limits(person=2, program=9, waiting=4, programs_waiting=3)), Engine(2)
        mine = [asyncio.create_task(_all(line, engine, "a")) for _ in range(2)]
        await _settle()
        with pytest.raises(EngineError) as mine_full:
            await _all(line, engine, "a")
        assert (mine_full.value.key, mine_full.value.params) == ("ops.too_many", {"most": 2})
        programs = [asyncio.create_task(_all(line, engine, "p", program=True)) for _ in range(3)]
        await _settle()
        with pytest.raises(EngineError) as program_full:
            await _all(line, engine, "q", program=True)
        assert program_full.value.key == "engine.queue_full"
        another = asyncio.create_task(_all(line, engine, "b"))  # people still get in
        await _settle()
        with pytest.raises(EngineError):
            await _all(line, engine, "c")
        another.cancel()  # leaves the queue
        mine[0].cancel()  # leaves the engine
        await asyncio.gather(another, mine[0], return_exceptions=True)
        engine.go.set()
        await asyncio.gather(mine[1], *programs, _all(line, engine, "a"))
        assert (line.waiting, engine.active) == (0, 0)
        counts = line.tally.counts()
        assert counts.refused == {"too_many": 1, "queue_full": 2}
        assert counts.replies[CHAT, "cancelled"] == 2

    asyncio.run(run())


def test_whoever_waits_is_called_when_the_engine_gets_more_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        line, engine = Line(), Engine(1)
        work = [asyncio.create_task(_all(line, engine, who)) for who in "abc"]
        await _settle()
        assert (engine.active, line.waiting) == (1, 2)
        engine.slots = 3
        async with asyncio.timeout(60):
            while engine.active < 3:
                await asyncio.sleep(0)
        engine.go.set()
        await asyncio.gather(*work)

    monkeypatch.setattr(module, "TELL_S", 0.01)
    asyncio.run(run())


def test_new_cookies_do_not_make_more_of_one_place() -> None:
    async def run() -> None:
        line, engine = Line(Limits(place=2)), Engine(8)

        async def person(who: str, place: str) -> None:
            async with aclosing(line.seat(engine, who, place=place).chat(ASK, Sampling())) as pieces:
                async for _ in pieces:
                    pass

        work = [asyncio.create_task(person(who, "10.0.0.7")) for who in "ab"]
        await _settle()
        with pytest.raises(EngineError) as caught:
            await person("c", "10.0.0.7")
        assert (caught.value.key, caught.value.params) == ("ops.too_many_there", {"most": 2})
        work += [
            asyncio.create_task(person(who, place)) for who, place in (("d", "10.0.0.8"), *((w, "") for w in "efg"))
        ]
        await _settle()
        assert engine.active == 6
        engine.go.set()
        await asyncio.gather(*work)
        assert not line._places
        await person("c", "10.0.0.7")

    asyncio.run(run())


def test_programs_leave_a_slot_for_people() -> None:
    async def run() -> None:
        line, engine = Line(), Engine(4)
        programs = [asyncio.create_task(_all(line, engine, "p", program=True)) for _ in range(6)]
        await _settle()
        assert engine.active == 3
        person = asyncio.create_task(_all(line, engine, "a"))
        await _settle()
        assert engine.active == 4
        engine.go.set()
        await asyncio.gather(person, *programs)

    asyncio.run(run())


@pytest.mark.parametrize("pieces", [0, 3])
def test_a_reply_that_takes_too_long_ends_with_its_reason_and_frees_its_slot(pieces: int) -> None:
    class Slow(Engine):
        closed = False

        async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
            try:
                for count in range(pieces):
                    yield Piece("a", count + 1)
                await asyncio.Event().wait()
            finally:
                self.closed = True

    async def run() -> None:
        line, engine = Line(Limits(reply_s=0.05)), Slow(1)
        first, second = await asyncio.wait_for(asyncio.gather(*(_all(line, engine, who) for who in "ab")), 60)
        for told in (first, second):
            assert (told[-1].finish, told[-1].tokens, told[-1].text) == (Finish.TIME, pieces, "")
            assert told[-1].usage is not None
            assert told[-1].usage.completion_tokens == pieces
        assert "".join(piece.text for piece in first) == "a" * pieces
        assert engine.closed
        assert line.tally.counts().replies == {(CHAT, "time"): 2}
        assert not line._turns

    asyncio.run(run())


def test_without_a_time_limit_a_reply_takes_as_long_as_it_takes() -> None:
    async def run() -> None:
        line, engine = Line(Limits(reply_s=0)), Engine(1)
        engine.go.set()
        assert (await _all(line, engine, "a"))[-1].finish is Finish.STOP

    asyncio.run(run())


def test_a_failure_is_counted_as_one() -> None:
    class Broken(Engine):
        async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
            yield Piece("a", 1)
            raise EngineError("engine.cut_off")

    async def run() -> None:
        line = Line()
        with pytest.raises(EngineError):
            await _all(line, Broken(1), "a")
        assert line.tally.counts().replies == {(CHAT, "error"): 1}

    asyncio.run(run())


def test_a_speed_is_noted_of_a_reply_that_had_the_engine_to_itself() -> None:
    class Quick(Engine):
        async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
            yield Piece("a", 1)
            await self.go.wait()
            yield Piece("", 20, Finish.STOP, Usage(1, 20, 0.1, 1.9))

    async def run() -> None:
        line, engine = Line(), Quick(2)
        both = [asyncio.create_task(_all(line, engine, who)) for who in "ab"]
        await _settle()
        engine.go.set()
        await asyncio.gather(*both)
        assert line.live().last.tokens_per_s == 0
        assert line.live().last.first_token_s > 0
        await _all(line, engine, "a")
        assert line.live().last.tokens_per_s == pytest.approx(10)

    asyncio.run(run())


def test_replies_too_short_for_a_speed_add_up_to_one() -> None:
    tally = Tally()
    for _ in range(3):
        tally.ended(Latest(7), tokens=48, seconds=0.05)
        tally.ended(Latest(7))  # somebody else was being answered
        assert tally.counts().last == Latest(7)
    tally.ended(Latest(7, 0.1), tokens=48, seconds=0.05)
    told = tally.counts().last
    assert (told.pid, told.first_token_s, told.replies) == (7, 0.1, 4)
    assert told.tokens_per_s == pytest.approx(960)
    tally.ended(Latest(7), tokens=1, seconds=9.0)  # a few words say nothing, however long they took
    assert tally.counts().last.tokens_per_s == told.tokens_per_s
    tally.ended(Latest(7, 0.0, 20.0), tokens=40, seconds=2.0)
    assert tally.counts().last == Latest(7, 0.0, 20.0)
    tally.ended(Latest(8), tokens=48, seconds=0.05)  # another engine process begins anew
    assert tally.counts().last == Latest(8)


@given(st.lists(st.floats(0, 1000)))
def test_a_histogram_loses_nothing(values: list[float]) -> None:
    made = Histogram()
    for value in values:
        made = made.with_value(value)
    assert sum(made.counts) == len(values)
    assert made.total == pytest.approx(sum(values))


def test_a_stopped_reply_has_the_speed_and_the_wait_that_its_engine_told() -> None:
    class Told(Engine):
        async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
            await asyncio.sleep(0.01)
            for tokens in range(1, 100):
                yield Piece("a", tokens, usage=Usage(0, tokens, 0.5, (tokens - 1) / 46))

    async def run() -> None:
        line = Line()
        async with aclosing(line.seat(Told(1), "a").chat(ASK, Sampling())) as pieces:
            async for piece in pieces:
                if piece.tokens == 20:
                    break
        last = line.live().last
        assert last.first_token_s == 0.5
        assert last.tokens_per_s == pytest.approx(46)

    asyncio.run(run())
