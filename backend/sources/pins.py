"""Pins that were made a moment ago: a plan that is shown and then started asks for the listing once.

Before one is used again the hub is asked for the commit alone; if that has moved, everything is listed anew. Knows
nothing about plans.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from backend.sources.access import Access
from backend.sources.pace import Clock
from backend.sources.pinned import Pinned, find_source
from backend.sources.remote import Servers
from backend.sources.spec import Repository, parse
from backend.sources.trouble import Stopped, Trouble
from backend.sources.wire import Session

_FRESH_S = 300.0
_ASK_S = 4.0
_LIMIT = 4 << 20  # bytes of an answer; a model's card comes along
_MOST = 64  # pins

Find = Callable[..., Pinned | None]


@dataclass
class Pins:
    """Finds sources as ``find_source`` does, and remembers what it found for some minutes. For several threads."""

    find: Find = find_source
    clock: Clock = time.monotonic
    _known: dict[tuple[str, Servers], tuple[float, Pinned]] = field(default_factory=dict, init=False, repr=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __call__(self, spec: str, *, access: Access, cancelled: Callable[[], bool] = lambda: False) -> Pinned | None:
        """Return a source pinned if it is a remote one, None if it is on this machine. Raises as ``find_source``."""
        key = (spec, access.servers)
        with self._guard:
            at, pinned = self._known.get(key, (0.0, None))
        if pinned is not None and self.clock() - at < _FRESH_S and _is_current(pinned, access.servers):
            return pinned
        found = self.find(spec, access=access, cancelled=cancelled)
        with self._guard:
            self._known.pop(key, None)
            if found is not None:
                self._known[key] = (self.clock(), found)
                while len(self._known) > _MOST:
                    del self._known[next(iter(self._known))]
        return found


def _is_current(pinned: Pinned, servers: Servers) -> bool:
    """Tell whether a hub still means the same commit; if it does not answer, the pinned bytes are as good as ever."""
    listing, wanted = pinned.listing, parse(pinned.spec)
    if listing.kind != "hf" or not isinstance(wanted, Repository):
        return True
    url = f"{listing.endpoint}/api/models/{listing.repository}/revision/{quote(wanted.revision or 'main', safe='')}"
    session = Session(timeout_s=_ASK_S, proxies=servers.proxies)
    try:
        status, answer = session.get_json(url, token=servers.token(listing.endpoint), limit=_LIMIT)
    except (Trouble, Stopped):
        return True
    finally:
        session.close()
    return status == 200 and isinstance(answer, dict) and answer.get("sha") == listing.revision
