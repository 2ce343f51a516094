"""Whether a server gives us what it lists: hubs show the files of a gated repository to everybody.

Knows nothing about plans, or about what to do when it does not.
"""

import contextlib

from backend.sources.access import Access
from backend.sources.pinned import Pinned
from backend.sources.refusals import refusal
from backend.sources.trouble import Trouble
from backend.sources.wire import Session

_TIMEOUT_S = 10.0
_REFUSED = (401, 403, 451)


def check_admission(pinned: Pinned, *, access: Access) -> None:
    """Ask for the first byte of a repository's smallest file, with the token that was given for its server.

    Raises:
        SourceError: the server refuses it. Anything else that goes wrong is for the download to tell.
    """
    listing, session = pinned.listing, Session(timeout_s=_TIMEOUT_S)
    file, token = min(listing.files, key=lambda one: one.size), access.servers.token(listing.endpoint)
    try:
        with contextlib.suppress(Trouble):
            reply = session.get(file.url, {"Range": "bytes=0-0"}, token=token)
            status, code = reply.status, reply.header("X-Error-Code")
            reply.close()
            if status in _REFUSED:
                page = f"{listing.endpoint}/{listing.repository}"
                raise refusal(status, code, host=listing.host, repository=listing.repository, page=page,
                              has_token=token is not None)  # fmt: skip
    finally:
        session.close()
