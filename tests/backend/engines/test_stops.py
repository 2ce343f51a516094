"""Stop strings never show, whole or in part, however the text is cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backend.engines.stops import StopStrings

TEXT = st.text(alphabet="ab#<|你 ", max_size=40)
STOPS = st.lists(st.text(alphabet="ab#<|你", min_size=1, max_size=4), max_size=3)


def test_the_text_up_to_the_stop_is_shown() -> None:
    stops = StopStrings(["###", "</s>"])
    assert [stops.feed(part) for part in ("Hello", " #", "# yes", "#", "##", " no")] == [
        "Hello", " ", "## yes", "", "", "",
    ]  # fmt: skip
    assert stops.hit
    assert stops.finish() == ""


def test_an_unfinished_stop_string_is_text_after_all() -> None:
    stops = StopStrings(["###"])
    assert stops.feed("a##") == "a"
    assert stops.finish() == "##"


@given(TEXT, STOPS, st.lists(st.integers(0, 40), max_size=8))
def test_any_cutting_shows_the_same(text: str, wanted: list[str], cuts: list[int]) -> None:
    stops = StopStrings(wanted)
    points = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(stops.feed(text[a:b]) for a, b in pairwise(points)) + stops.finish()
    # A stop string is seen as soon as its last character comes, so the one that ends first decides.
    ends = [text.find(stop) + len(stop) for stop in wanted if stop in text]
    if not ends:
        assert shown == text
        assert not stops.hit
    else:
        assert stops.hit
        assert text.startswith(shown)
        assert not any(stop in shown for stop in wanted)
