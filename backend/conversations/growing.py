"""A reply that is being written while it is made. Knows nothing about engines or pages."""

import time
from collections.abc import Callable
from typing import Any

from backend.conversations.database import Database
from backend.conversations.records import storable
from backend.engines.base import Finish, Usage

MAX_REPLY = 1_000_000  # characters of one reply; no engine is asked for nearly as much
_SAVE_EVERY_S = 1.0


class GrowingReply:
    """Writes one reply while it is being made: at most once a second, and at its end."""

    def __init__(
        self, database: Database, message: int, conversation: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.message = message
        self._database = database
        self._conversation = conversation
        self._clock = clock
        self._saved = clock()

    def grow(self, text: str) -> bool:
        """Take the whole text so far; save it if the last time is a second ago.

        Returns:
            False when the reply was deleted meanwhile (edit, undo, clear), so that its writer can stop.
        """
        if self._clock() - self._saved < _SAVE_EVERY_S:
            return True
        self._saved = self._clock()
        return self._write("text = ?", storable(text[:MAX_REPLY]))

    def finish(self, text: str, finish: Finish, usage: Usage = Usage()) -> bool:  # noqa: B008 - frozen
        """Save the whole text, why it ended and what it used. Returns False when the reply was deleted meanwhile."""
        return self._write(
            "text = ?, finish = ?, prompt_tokens = ?, completion_tokens = ?, first_token_s = ?, decode_s = ?",
            storable(text[:MAX_REPLY]),
            finish.value,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.first_token_s,
            usage.decode_s,
        )

    def _write(self, assignments: str, *values: Any) -> bool:
        with self._database.transaction() as db:
            changed = db.execute(
                f"UPDATE messages SET {assignments} WHERE id = ? AND conversation = ?",  # noqa: S608 - our own words
                (*values, self.message, self._conversation),
            )
            return changed.rowcount > 0
