"""Copies of beginnings: found by tokens and adapters, bounded, and gone when anything goes wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backend.engines.llamacpp_server import copies as copies_module
from backend.engines.llamacpp_server.copies import Copies, copies_for
from backend.engines.llamacpp_server.serving import Door
from backend.engines.llamacpp_server.sizes import Room
from backend.errors import EngineError
from backend.ram import Ram

ADA = (1.0,)


class Play:
    """Slots that hold so many tokens, behind a door; ``broken``: what it refuses."""

    def __init__(self, folder: Path) -> None:
        self.copies = folder
        self.holds = [0, 0]
        self.broken = ""
        self.asked: list[str] = []

    def ask(self, what: str, body: Mapping[str, Any], *, patience_s: float) -> dict[str, Any]:
        slot, action = int(what.split("/")[2][0]), what.partition("=")[2]
        self.asked.append(f"{action} {slot}")
        if action == self.broken:
            raise EngineError("engine.computation_failed", what=what)
        file = self.copies / body["filename"]
        if action == "save":
            file.write_text(str(self.holds[slot]))
        else:
            self.holds[slot] = int(file.read_text())
        return {f"n_{action}d": self.holds[slot]}


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


def made(play: Play, room: int = 1000) -> Copies:
    return Copies(play, per_token=1, room=room)  # type: ignore[arg-type]


def keep(copies: Copies, play: Play, ids: tuple[int, ...], scales: tuple[float, ...] = ()) -> bool:
    play.holds[0] = len(ids)
    return copies.keep(0, ids, scales=scales)


def files(play: Play) -> int:
    return len(list(play.copies.iterdir()))


def test_a_beginning_is_found_by_its_tokens_and_adapters(play: Play) -> None:
    copies, ids = made(play), tuple(range(100))
    assert keep(copies, play, ids)
    assert copies.known((*ids[:60], 7, 7), ()) == 60
    assert copies.known(ids, ADA) == 0
    assert copies.bring(1, (*ids, 5), scales=ADA) == 0
    assert copies.bring(1, (*ids[:60], 7, 7), scales=()) == 60
    assert play.holds == [100, 100]


def test_what_is_used_stays_and_the_rest_makes_room(play: Play) -> None:
    copies = made(play, room=250)
    first, second, third = (tuple(range(start, start + 100)) for start in (0, 1000, 2000))
    assert keep(copies, play, first)
    assert keep(copies, play, second)
    assert copies.bring(1, first, scales=()) == 100
    assert keep(copies, play, third)
    assert [copies.known(ids, ()) for ids in (first, second, third)] == [100, 0, 100]
    assert keep(copies, play, (*third, 1, 2))  # holds the shorter one as well
    assert files(play) == 2
    assert not keep(copies, play, tuple(range(300)))
    assert copies.known(first, ()) == 100


@pytest.mark.parametrize("broken", ["save", "restore"])
def test_a_failure_leaves_nothing_behind(play: Play, broken: str) -> None:
    copies, ids = made(play), tuple(range(100))
    play.broken = broken
    assert keep(copies, play, ids) is (broken != "save")
    assert copies.bring(1, ids, scales=()) == 0
    assert copies.hand_over(0, 1) == 0
    assert copies.known(ids, ()) == 0
    assert files(play) == 0


def test_a_slot_that_does_not_hold_what_was_thought_is_no_copy(play: Play) -> None:
    copies = made(play)
    play.holds[0] = 99
    assert not copies.keep(0, tuple(range(100)), scales=())
    assert files(play) == 0


def test_what_is_handed_over_is_not_kept(play: Play) -> None:
    copies = made(play)
    play.holds = [70, 3]
    assert copies.hand_over(0, 1) == 70
    assert play.holds == [70, 70]
    assert play.asked == ["save 0", "restore 1"]
    assert files(play) == 0


def test_where_room_is_short_nothing_is_copied(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = made(play)
    monkeypatch.setattr(copies_module, "ram", lambda: Ram(1000, 150))
    assert not keep(copies, play, tuple(range(100)))
    assert copies.hand_over(0, 1) == 0
    assert play.asked == []
    assert made(Play(play.copies / "gone")).hand_over(0, 1) == 0


def test_half_of_what_the_slots_hold_and_none_for_a_single_one() -> None:
    door = Door()
    assert copies_for(door, Room(1024, 1), 10) is None
    copies = copies_for(door, Room(1024, 4), 10)
    assert copies is not None
    assert copies._room == 1024 * 4 * 10 // 2
    door.close()
