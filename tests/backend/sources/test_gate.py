"""Letting files in one by one: never more on the disk than was foreseen, and never a standstill."""

import random
from pathlib import Path

import pytest

from backend.arrival import Output
from backend.sources.gate import Gate

A, B, C, D = map(Path, "ABCD")
SIZES = {A: 10, B: 10, C: 10, D: 10}
OUTPUTS = [Output(10, frozenset([A]), frozenset([A, B])), Output(10, frozenset([C]), frozenset([C, D]))]


def gate() -> Gate:
    return Gate([A, B, C, D], SIZES, here=(), begun=())


def test_before_anything_is_known_one_file_comes_after_the_other() -> None:
    made = gate()
    assert made.may_begin(Path("config.json"))
    assert not made.may_begin(B)
    assert made.may_begin(A)
    assert made.may_begin(A)
    assert not made.may_begin(B)
    made.came(A)
    assert made.may_begin(B)


def test_the_next_waits_until_there_is_room() -> None:
    made = gate()
    assert made.foresee(OUTPUTS, 0) == 40  # 20 of A and B gave 10; then 20 of C and D, and 10 of what comes of them
    assert made.may_begin(A)
    assert made.may_begin(B)
    assert not made.may_begin(C)  # with C, what is made of it may begin too: 50
    made.came(A)
    made.came(B)
    assert not made.may_begin(C)  # something can be made, so this is no standstill
    assert made.made() == {A, B}
    made.removed(A)
    made.removed(B)
    assert made.may_begin(C)
    assert made.may_begin(D)


def test_room_that_was_promised_is_used() -> None:
    made = gate()
    made.foresee(OUTPUTS, 60)
    assert [made.may_begin(path) for path in (A, B, C, D)] == [True] * 4


def test_what_had_begun_goes_on() -> None:
    made = Gate([A, B, C, D], SIZES, here=[A], begun=[C])
    made.foresee(OUTPUTS, 0)
    assert made.may_begin(C)


@pytest.mark.parametrize("seed", range(30))
def test_nothing_ever_stands_still_or_takes_more_than_foreseen(seed: int) -> None:
    """Files, outputs and the order of events are drawn; everything must come to an end within what was foreseen."""
    dice = random.Random(seed)
    sizes = {Path(str(number)): dice.randint(1, 20) for number in range(dice.randint(2, 9))}
    order = list(sizes)
    outputs = []
    for _ in range(dice.randint(1, 5)):
        needs = dice.sample(order, dice.randint(1, len(order)))
        outputs.append(Output(dice.randint(1, 20), frozenset(needs[:1]), frozenset(needs)))
    made = Gate(order, sizes, here=(), begun=())
    most = made.foresee(outputs, 0)
    let_in, came, gone, done = set[Path](), set[Path](), set[Path](), 0
    for _ in range(10_000):
        let_in |= {path for path in order if made.may_begin(path)}
        begun = done < len(outputs) and outputs[done].begins <= came | gone
        used = sum(sizes[path] for path in let_in - gone) + sum(one.size for one in outputs[: done + begun])
        assert used <= most
        moves = sorted(let_in - came)
        if moves and dice.random() < 0.5:
            came.add(path := dice.choice(moves))
            made.came(path)
        elif done < len(outputs) and outputs[done].needs <= came | gone:
            for path in made.made():
                made.removed(path)
                gone.add(path)
            done += 1
        elif done == len(outputs) and came == set(order):
            return
    raise AssertionError("it stands still")
