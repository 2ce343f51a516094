"""Beginnings of prompts that llama.cpp has computed, kept as files, to be read into any of its slots.

Reading one costs a copy of memory where computing costs seconds. The files lie in the private folder of llama.cpp's
socket and go with it; what is not needed any more goes first. Everything in here may fail: then it is computed. Knows
nothing about requests or who waits.
"""

import os
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from backend.engines.adapters import Scales
from backend.engines.llamacpp_server.seats import shared
from backend.engines.llamacpp_server.serving import FIRST_TOKEN_S, Door
from backend.engines.llamacpp_server.sizes import Room, padded
from backend.errors import EngineError
from backend.ram import ram

_MOST = 16  # files


@dataclass(frozen=True)
class _Copy:
    ids: tuple[int, ...]
    scales: Scales
    path: Path
    nbytes: int


class Copies:
    """At most ``room`` bytes of them, at ``per_token`` bytes a token. Thread-safe."""

    def __init__(self, door: Door, *, per_token: int, room: int) -> None:
        self._door, self._per_token, self._room = door, per_token, room
        self._copies: list[_Copy] = []  # the one used last is the last
        self._numbers = count(1)
        self._lock = threading.Lock()

    def known(self, ids: Sequence[int], scales: Scales) -> int:
        """Return how many tokens of a prompt there is a copy of."""
        with self._lock:
            return max((shared(copy.ids, ids) for copy in self._copies if copy.scales == scales), default=0)

    def keep(self, slot: int, ids: tuple[int, ...], *, scales: Scales) -> bool:
        """Keep what an idle slot holds, which is ``ids``; tell whether that was done."""
        with self._lock:
            need = self._per_token * len(ids)
            if need > self._room or not self._fits(need):
                return False
            within = [copy for copy in self._copies if copy.scales == scales and copy.ids == ids[: len(copy.ids)]]
            self._drop(within)  # the new one holds them as well
            while len(self._copies) >= _MOST or sum(copy.nbytes for copy in self._copies) + need > self._room:
                self._drop(self._copies[:1])
            path = self._path()
            if self._ask(slot, "save", path) != len(ids):
                path.unlink(missing_ok=True)
                return False
            self._copies.append(_Copy(ids, scales, path, need))
            return True

    def bring(self, slot: int, ids: Sequence[int], *, scales: Scales) -> int:
        """Read the best copy for a prompt into an idle slot; return how many of its tokens the slot has now."""
        with self._lock:
            fitting = [copy for copy in self._copies if copy.scales == scales]
            best = max(fitting, key=lambda copy: shared(copy.ids, ids), default=None)
            if best is None:
                return 0
            if self._ask(slot, "restore", best.path) != len(best.ids):
                self._drop([best])
                return 0
            self._copies.remove(best)
            self._copies.append(best)
            return shared(best.ids, ids)

    def hand_over(self, giver: int, taker: int) -> int:
        """Copy what one idle slot holds into another; return how many tokens that are."""
        with self._lock:
            if not self._fits(self._room):
                return 0
            path = self._path()
            try:
                saved = self._ask(giver, "save", path)
                return saved if saved and self._ask(taker, "restore", path) == saved else 0
            finally:
                path.unlink(missing_ok=True)

    def _path(self) -> Path:
        return self._door.copies / f"{next(self._numbers)}.kv"

    def _fits(self, need: int) -> bool:
        """Tell whether there is plenty of disk and of memory: some machines keep such files there."""
        try:
            room = min(shutil.disk_usage(self._door.copies).free, ram().free or 0)
        except OSError:
            room = 0
        return int(room) > 2 * need

    def _drop(self, copies: Sequence[_Copy]) -> None:
        for copy in list(copies):
            self._copies.remove(copy)
            copy.path.unlink(missing_ok=True)

    def _ask(self, slot: int, action: str, path: Path) -> int:
        """Return how many tokens were saved or restored; 0: it failed. It is done between two steps of computing."""
        what = f"/slots/{slot}?action={action}"
        found: object = 0
        with suppress(EngineError):
            found = self._door.ask(what, {"filename": path.name}, patience_s=FIRST_TOKEN_S).get(f"n_{action}d")
        return found if type(found) is int else 0


def copies_for(door: Door, room: Room, per_token: int) -> Copies | None:
    """Return a place for copies, of half as many bytes as all slots hold; None where there is nothing to share."""
    whole = room.slots * padded(room.context) * per_token
    return Copies(door, per_token=per_token, room=whole // 2) if room.slots > 1 and os.name == "posix" else None
