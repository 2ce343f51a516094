"""Who sits where in llama.cpp, by what has to be computed, now and later; and who could use whose beginning."""

from collections.abc import Sequence

import pytest

from backend.engines.llamacpp_server.seats import ANY, Seats

SYSTEM = tuple(range(40))


def conversation(person: int, tokens: int) -> tuple[int, ...]:
    return SYSTEM + tuple(1000 * person + place for place in range(tokens))


def ask(seats: Seats, ids: Sequence[int], scales: tuple[float, ...] = (), *, known: int = 0) -> int:
    number = seats.take(ids, scales, known=known)
    seats.note(number, len(ids), begun=True)
    seats.give_back(number)
    return number


def test_everybody_keeps_a_seat() -> None:
    seats = Seats(4)
    first = [ask(seats, conversation(person, 200)) for person in range(1, 5)]
    assert sorted(first) == [0, 1, 2, 3]
    for turn in range(2, 5):
        assert [ask(seats, conversation(person, 200 * turn)) for person in range(1, 5)] == first


@pytest.mark.parametrize(
    ("before", "after", "known", "moves"),
    [
        (conversation(1, 300), conversation(2, 10), 0, True),  # a short question is no reason to lose a conversation
        (conversation(1, 10), conversation(2, 10), 0, False),  # with hardly anything to lose, the system prompt decides
        (conversation(1, 300), conversation(1, 290), 0, False),  # a reply asked for again
        (conversation(1, 10), conversation(2, 10), 38, True),  # the system prompt can be had anywhere
        (conversation(1, 30), conversation(1, 60), 38, False),  # so can one's own, and it is here
    ],
)
def test_a_seat_is_taken_over_where_that_saves_more_than_it_costs(
    before: tuple[int, ...], after: tuple[int, ...], known: int, moves: bool
) -> None:
    seats = Seats(2)
    assert ask(seats, before) == 0
    assert (ask(seats, after, known=known) != 0) is moves


def test_who_left_long_ago_makes_room() -> None:
    seats = Seats(2)
    gone = ask(seats, conversation(1, 2000))
    for turn in range(1, 9):
        kept = ask(seats, conversation(2, 100 * turn))
    assert kept != gone
    assert ask(seats, conversation(3, 500)) == gone


def test_other_adapters_share_nothing() -> None:
    seats = Seats(2)
    with_one = ask(seats, conversation(1, 20), (1.0,))
    assert ask(seats, conversation(1, 20), (0.5,)) != with_one
    assert ask(seats, conversation(1, 20), (1.0,)) == with_one
    assert seats.elsewhere(conversation(1, 20), (0.25,)) == 0
    assert seats.elsewhere(conversation(1, 20), (0.5,)) == 60
    mine = seats.take(conversation(1, 20), (0.25,))
    assert seats.state(mine).retuned
    assert seats.borrow(mine, 1) is None
    assert seats.asked_before(mine) == 0


def test_a_slot_has_the_adapters_of_whoever_computed_in_it_last() -> None:
    seats = Seats(1)
    ask(seats, conversation(1, 20), (1.0,))
    seats.give_back(seats.take(conversation(1, 20), (0.5,)))  # left before anything was computed
    assert seats.state(seats.take(conversation(1, 20), (0.5,))).retuned
    seats.note(0, 60, begun=False)
    assert not seats.state(0).retuned


def test_a_seat_at_work_is_nobody_elses() -> None:
    seats = Seats(2)
    taken = [seats.take(conversation(1, 20), ()), seats.take(conversation(1, 20), ())]
    assert sorted(taken) == [0, 1]
    looked = iter((False, True))
    assert seats.take(conversation(1, 20), (), gone=lambda: next(looked)) == ANY  # waited, and left
    seats.give_back(ANY)
    seats.give_back(taken[1])
    assert seats.take(conversation(9, 20), ()) == taken[1]


def test_without_seats_llama_cpp_chooses() -> None:
    seats = Seats(0)
    assert seats.take((1, 2), ()) == ANY
    assert not seats.note(ANY, 5, begun=False)


def test_what_was_not_read_is_not_there() -> None:
    seats = Seats(1)
    number = seats.take(conversation(1, 100), ())
    seats.note(number, 30, begun=False)
    seats.give_back(number)
    assert seats.elsewhere(conversation(1, 50), ()) == 30
    assert seats.state(seats.take(conversation(1, 100), ())).read == 30


def test_a_beginning_is_borrowed_from_who_came_before_and_has_most_of_it() -> None:
    seats = Seats(4)
    one, two, three = (seats.take(conversation(person, 50), ()) for person in (1, 2, 1))
    seats.note(one, 10, begun=False)
    assert seats.borrow(one, 1) is None  # nobody came before
    assert seats.borrow(two, 41) is None
    assert seats.borrow(two, 40) == (one, 40, False)
    assert seats.borrow(three, 40) == (one, 90, False)
    assert seats.state(one).wanted == 90
    assert seats.note(one, 50, begun=False)  # it should pause
    seats.copied(one, done=True)
    assert not seats.note(one, 60, begun=False)
    assert seats.borrow(three, 40) == (one, 90, False)
    assert not seats.note(one, 90, begun=True)  # too late, and from now on it offers nothing
    assert seats.borrow(three, 41) is None
    seats.give_back(one)  # what it read, it still has
    assert seats.borrow(three, 41) == (one, 90, True)
    assert seats.state(one).taken
    seats.give_back(one)
    assert not seats.state(one).taken


def test_who_could_not_be_copied_is_not_asked_again() -> None:
    seats = Seats(2)
    one, two = seats.take(conversation(1, 50), ()), seats.take(conversation(2, 50), ())
    assert seats.borrow(two, 1) == (one, 40, False)
    seats.copied(one, done=False)
    assert seats.borrow(two, 1) is None


def test_what_a_second_person_asks_for_is_noticed() -> None:
    seats = Seats(2)
    ask(seats, conversation(1, 50))
    mine = seats.take(conversation(1, 80), ())
    assert (mine, seats.asked_before(mine)) == (0, 0)  # a conversation that goes on
    seats.note(mine, 120, begun=True)
    seats.give_back(mine)
    over = seats.take(SYSTEM + conversation(2, 50), ())
    assert (over, seats.asked_before(over)) == (1, 40)  # beside the first
    seats.give_back(over)
    assert Seats(1).asked_before(0) == 0
    single = Seats(1)
    ask(single, conversation(1, 50))
    assert single.asked_before(single.take(conversation(2, 50), ())) == 40  # in its place
