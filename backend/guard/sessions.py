"""Which visitor a gradio session belongs to: the first one that uses it.

gradio knows a browser tab only by a ``session_hash`` that the tab makes up, and lets whoever names it read its stream,
change its state and cancel its jobs. Knows nothing else about gradio.
"""

import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from backend.guard.denied import Denied

MAX_SESSIONS = 20_000
IDLE_S = 24 * 3600.0
_SHAPE = re.compile(r"[A-Za-z0-9_-]{1,64}")


class SessionOwners:
    """A bounded table from session to owner; the one unused longest goes first. Used from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._owners: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def check(self, session: str, owner: str) -> None:
        """Let the owner of a session through; a session nobody owns becomes the caller's.

        Raises:
            Denied: 403; it is somebody else's.
        """
        now = self._clock()
        known, used = self._owners.get(session, (owner, now))
        if known != owner and now - used < IDLE_S:
            raise Denied(HTTPStatus.FORBIDDEN, "guard.session")
        self._owners[session] = (owner, now)
        self._owners.move_to_end(session)
        while len(self._owners) > MAX_SESSIONS:
            self._owners.popitem(last=False)


def sessions_named(query: bytes, body: bytes | None) -> set[str]:
    """Return every session that a request names, in its query or in its JSON body (``None``: a request without one).

    Raises:
        Denied: 400; the body is no JSON object, or a name has a shape that no page of ours sends.
    """
    named: list[Any] = list(parse_qs(query.decode("latin-1"), keep_blank_values=True).get("session_hash", []))
    if body is not None:
        named.append(_json_object(body).get("session_hash"))
    for name in named:
        if name is not None and not (isinstance(name, str) and _SHAPE.fullmatch(name)):
            raise Denied(HTTPStatus.BAD_REQUEST, "guard.malformed")
    return {name for name in named if name is not None}


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Denied(HTTPStatus.BAD_REQUEST, "guard.malformed")
    return found
