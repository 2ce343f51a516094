"""Work made ahead: in order, side by side, bounded, and stopped where it fails or is no longer wanted."""

import threading
from collections.abc import Callable
from functools import partial

import pytest

from backend.weights.ahead import made_ahead


def test_results_come_in_the_order_of_the_tasks() -> None:
    late = threading.Event()

    def first() -> int:
        assert late.wait(10)  # the second is made first
        return 1

    def second() -> int:
        late.set()
        return 2

    assert list(made_ahead([first, second, lambda: 3])) == [1, 2, 3]
    assert list(made_ahead([])) == []


def test_only_a_few_are_begun_before_they_are_wanted() -> None:
    begun = list[int]()

    def task(number: int) -> int:
        begun.append(number)
        return number

    pieces = made_ahead(partial(task, number) for number in range(100))
    for number in range(20):
        assert next(pieces) == number
        assert len(begun) <= number + 4
    pieces.close()  # type: ignore[attr-defined]
    assert len(begun) <= 24


def test_a_failure_comes_in_its_turn_and_ends_it() -> None:
    def fail() -> int:
        raise KeyError("broken")

    tasks: list[Callable[[], int]] = [lambda: 1, fail, lambda: 3]
    pieces = made_ahead(tasks)
    assert next(pieces) == 1
    with pytest.raises(KeyError):
        next(pieces)
    assert list(pieces) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("weights")]
