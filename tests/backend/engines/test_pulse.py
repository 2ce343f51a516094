"""When an engine counts as hung or stalled, by an imaginary clock."""

from collections.abc import Callable

import pytest

from backend.engines.pulse import LOADING_AFTER_S, Pulse

Tick = Callable[[float], None]


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Tick:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_silence_is_hung(tick: Tick) -> None:
    pulse = Pulse(60, 300)
    tick(59)
    assert pulse.fault() is None
    pulse.take(0, waited_for=False)
    tick(61)
    assert pulse.fault() == ("engine.hung", 60)


def test_requests_without_steps_are_a_stall(tick: Tick) -> None:
    pulse = Pulse(60, 300)
    for waited_for, steps in [(0, 0), (0, 0), (1, 0), (1, 5), (8, 6), (0, 6), (1, 6)]:
        for _ in range(20):  # 200 seconds of each
            tick(10)
            pulse.take(steps, waited_for=bool(waited_for))
        assert pulse.fault() is None
    for _ in range(11):
        tick(10)
        pulse.take(6, waited_for=True)
    assert pulse.fault() == ("engine.stalled", 300)


def test_whoever_burns_processor_time_is_slow_and_not_hung_but_not_for_ever(tick: Tick) -> None:
    """A long prompt in one step, on a machine where two others want the same processors."""
    pulse, burnt = Pulse(60, 300), 0.0
    pulse.take(1, waited_for=True)
    for _ in range(149):
        tick(10)
        burnt += 3.0
        pulse.burnt(burnt)
        pulse.take(1, waited_for=True)
        assert pulse.fault() is None
    for _ in range(2):
        tick(10)
        pulse.take(1, waited_for=True)
    assert pulse.fault() == ("engine.stalled", 1500)


def test_a_silent_one_that_computes_gets_longer_and_a_stopped_one_does_not(tick: Tick) -> None:
    for share, limit in ((0.3, 300), (0.05, 60)):
        pulse, seconds = Pulse(60, 300), 0
        while pulse.fault() is None:
            tick(1)
            seconds += 1
            pulse.burnt(share * seconds)
        assert (pulse.fault(), seconds) == (("engine.hung", limit), limit + 1)


def test_loading_that_does_not_get_on_is_given_up_after_half_an_hour(tick: Tick) -> None:
    pulse = Pulse(60, 300)
    for loaded in (1, 2, 2):
        for _ in range(89):  # a quarter of an hour of each
            tick(10)
            pulse.take(loaded, waited_for=True, loading=True)
            assert pulse.fault() is None
    for _ in range(4):
        tick(10)
        pulse.take(2, waited_for=True, loading=True)
    assert pulse.fault() == ("hard.loading_stalled", LOADING_AFTER_S)
    pulse.take(0, waited_for=False)  # ready at last
    assert pulse.fault() is None
