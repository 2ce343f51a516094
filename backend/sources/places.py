"""The servers that have the same bytes, in order of preference, and which of them to ask now.

A server that fails rests a while, longer each time; after two failures in a row the next one is asked, and the first
one gets another chance later. Knows nothing about requests.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from backend.errors import CriaError, SourceError
from backend.sources.listing import Listing, RemoteFile
from backend.sources.pace import Clock
from backend.sources.retry import back_off
from backend.sources.trouble import Trouble
from backend.sources.wire import Token, token_for

_STRIKES = 4  # nonsense answers about one file before a server is not asked for it any more
_DOWN_AFTER = 2
_LONG_S = 5.0  # who asks for more patience than that is passed over if there is another
_FORGIVEN_S = 60.0


@dataclass(eq=False)
class Place:
    """One server: its listing, the token for it, and how it has been behaving."""

    listing: Listing
    token: Token | None
    files: dict[str, RemoteFile]
    failures: int = 0
    until: float = 0.0
    refused: dict[str, CriaError] = field(default_factory=dict)
    strikes: dict[str, int] = field(default_factory=dict)

    def is_down(self, now: float) -> bool:
        """Tell whether another server should be asked first."""
        return self.until - now > _LONG_S or (self.failures >= _DOWN_AFTER and now < self.until + _FORGIVEN_S)


class Places:
    """All servers of one fetch. Not for several threads at once."""

    def __init__(
        self, listings: Sequence[Listing], tokens: Sequence[Token], *, base_s: float, clock: Clock = time.monotonic
    ) -> None:
        self._base_s, self._clock = base_s, clock
        self.all = [_place(listing, listings[0], tokens) for listing in listings]
        self.last_error: CriaError | None = None

    def pick(self, name: str, avoid: Place | None = None) -> tuple[Place, float] | None:
        """Return the server to ask for a file, and how long to wait first; None while ``problem`` says why not.

        ``avoid`` is asked only if there is no other.
        """
        now = self._clock()
        able = [place for place in self.all if name in place.files and name not in place.refused]
        if not able:
            return None
        best = min(able, key=lambda place: (place.is_down(now), place is avoid, place.is_down(now) and place.until))
        return best, max(0.0, best.until - now)

    def problem(self, name: str) -> CriaError:
        """Return why nobody gives a file: what its first server said."""
        refusals = [place.refused[name] for place in self.all if name in place.refused]
        return refusals[0] if refusals else SourceError("download.no_answer", host=self.all[0].listing.host)

    def worked(self, place: Place) -> None:
        """Note that a server gave what it should. If it asked for patience meanwhile, it still gets it."""
        place.failures = 0

    def failed(self, place: Place, name: str, trouble: Trouble) -> None:
        """Note a failure. Several at once, as when a network goes, count as one."""
        self.last_error, now = trouble.error, self._clock()
        place.strikes[name] = place.strikes.get(name, 0) + trouble.strike
        if trouble.hopeless or place.strikes[name] >= _STRIKES:
            place.refused[name] = trouble.error
        if not trouble.hopeless and now >= place.until:
            place.failures += 1
            place.until = now + max(back_off(place.failures, self._base_s), trouble.wait_s or 0.0)


def _place(listing: Listing, first: Listing, tokens: Sequence[Token]) -> Place:
    """Return a server with those files of the first listing that are the same bytes there."""
    theirs = {file.name: file for file in listing.files}
    same = {file.name: theirs[file.name] for file in first.files if _same(file, theirs.get(file.name))}
    return Place(listing, token_for(listing.endpoint, tokens), same)


def _same(file: RemoteFile, other: RemoteFile | None) -> bool:
    return other is not None and (other.size, other.identity) == (file.size, file.identity)
