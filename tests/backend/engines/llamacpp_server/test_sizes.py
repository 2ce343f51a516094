"""What fits: context and replies at once, by tables of imaginary memory."""

import pytest

from backend.engines.llamacpp_server.sizes import RESERVE, Room, fit_room, padded
from backend.errors import MachineError

GB, PER_TOKEN = 10**9, 500_000  # bytes; LLaMA-7B's cache takes so much a token


@pytest.mark.parametrize(
    ("free", "wanted", "asked", "room"),
    [
        (64 * GB, 2048, False, Room(2048, 4)),
        (14 * GB, 2048, False, Room(2048, 4)),
        (11 * GB, 2048, False, Room(2048, 3)),
        (9 * GB, 2048, False, Room(2048, 1)),
        (64 * GB, 131072, False, Room(112384, 1)),
        (8 * GB, 2048, False, Room(512, 1)),
        (9 * GB, 2048, True, Room(2048, 1)),
        (64 * GB, 100, True, Room(100, 4)),
    ],
)
def test_room(free: int, wanted: int, asked: bool, room: Room) -> None:
    found = fit_room(7 * GB, PER_TOKEN, free, wanted=wanted, asked=asked)
    assert found == room
    assert 7 * GB + RESERVE + found.slots * padded(found.context) * PER_TOKEN <= free


@pytest.mark.parametrize(
    ("free", "asked"), [(6 * GB, False), (7 * GB + RESERVE + 200 * PER_TOKEN, False), (8 * GB, True)]
)
def test_no_room(free: int, asked: bool) -> None:
    with pytest.raises(MachineError) as caught:
        fit_room(7 * GB, PER_TOKEN, free, wanted=2048, asked=asked)
    assert caught.value.key == "engine.no_room_ram"
    assert int(caught.value.params["need"] or 0) > free
