"""Who sits where in llama.cpp: by what has to be computed, now and later."""

import pytest

from backend.engines.llamacpp_server.seats import ANY, Seats

SYSTEM = tuple(range(40))


def conversation(person: int, tokens: int) -> tuple[int, ...]:
    return SYSTEM + tuple(1000 * person + place for place in range(tokens))


def ask(seats: Seats, ids: tuple[int, ...], scales: tuple[float, ...] = ()) -> int:
    number = seats.take(ids, scales)
    seats.give_back(number)
    return number


def test_everybody_keeps_a_seat() -> None:
    seats = Seats(4)
    first = [ask(seats, conversation(person, 200)) for person in range(1, 5)]
    assert sorted(first) == [0, 1, 2, 3]
    for turn in range(2, 5):
        assert [ask(seats, conversation(person, 200 * turn)) for person in range(1, 5)] == first


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [
        (conversation(1, 300), conversation(2, 10), True),  # a short question is no reason to lose a long conversation
        (conversation(1, 10), conversation(2, 10), False),  # with hardly anything to lose, the system prompt decides
        (conversation(1, 300), conversation(1, 290), False),  # a reply asked for again
    ],
)
def test_a_seat_is_taken_over_where_that_saves_more_than_it_costs(
    before: tuple[int, ...], after: tuple[int, ...], moves: bool
) -> None:
    seats = Seats(2)
    assert ask(seats, before) == 0
    assert (ask(seats, after) != 0) is moves


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


def test_a_seat_at_work_is_nobody_elses() -> None:
    seats = Seats(2)
    taken = [seats.take(conversation(1, 20), ()), seats.take(conversation(1, 20), ())]
    assert sorted(taken) == [0, 1]
    assert seats.take(conversation(1, 20), ()) == ANY
    seats.give_back(ANY)
    seats.give_back(taken[1])
    assert seats.take(conversation(9, 20), ()) == taken[1]


def test_without_seats_llama_cpp_chooses() -> None:
    assert Seats(0).take((1, 2), ()) == ANY
