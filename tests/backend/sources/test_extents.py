"""Spans behave as the sets of positions they stand for."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backend.sources.extents import Extents

span = st.tuples(st.integers(0, 40), st.integers(0, 40))


def positions(extents: Extents) -> set[int]:
    return {position for start, stop in extents for position in range(start, stop)}


@given(st.lists(st.tuples(st.booleans(), span), max_size=12), span)
def test_adding_and_removing_is_that_of_sets(
    steps: list[tuple[bool, tuple[int, int]]], window: tuple[int, int]
) -> None:
    extents, expected = Extents(), set[int]()
    for adds, (start, stop) in steps:
        (extents.add if adds else extents.remove)(start, stop)
        expected = expected | set(range(start, stop)) if adds else expected - set(range(start, stop))
    assert positions(extents) == expected
    assert extents.total == len(expected)
    spans = list(extents)
    assert all(a < b for a, b in spans)
    assert all(one[1] < two[0] for one, two in pairwise(spans))
    inside = set(range(*window))
    assert positions(Extents(extents.within(*window))) == expected & inside
    assert positions(Extents(extents.gaps(*window))) == inside - expected
    reach = extents.reach(window[0])
    assert set(range(window[0], reach)) <= expected
    assert reach not in expected
