"""When an engine counts as hung or stalled, by an imaginary clock."""

from collections.abc import Callable

import pytest

from backend.engines.pulse import Pulse

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
    pulse.take(active=0, steps=0)
    tick(61)
    assert pulse.fault() == ("engine.hung", 60)


def test_requests_without_steps_are_a_stall(tick: Tick) -> None:
    pulse = Pulse(60, 300)
    for active, steps in [(0, 0), (0, 0), (1, 0), (1, 5), (8, 6), (0, 6), (1, 6)]:
        for _ in range(20):  # 200 seconds of each
            tick(10)
            pulse.take(active=active, steps=steps)
        assert pulse.fault() is None
    for _ in range(11):
        tick(10)
        pulse.take(active=1, steps=6)
    assert pulse.fault() == ("engine.stalled", 300)
