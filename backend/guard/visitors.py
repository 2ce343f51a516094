"""Who a browser is: an unguessable cookie, and the hash of it that the rest of Cria may see and store.

Knows nothing about what belongs to a visitor.
"""

import hashlib
import re

from backend.settings import new_token

COOKIE = "cria_visitor"
YEAR_S = 365 * 24 * 3600
_SHAPE = re.compile(r"[A-Za-z0-9_-]{43}")  # 256 bits as settings.new_token writes them


def known_visitor(cookie: str | None) -> str | None:
    """Return the cookie if it has the shape of one of ours; anything else is as good as none."""
    return cookie if cookie and _SHAPE.fullmatch(cookie) else None


def new_visitor() -> str:
    """Return a fresh cookie value."""
    return new_token()


def owner_of(visitor: str) -> str:
    """Return the name under which a visitor's things are kept: one-way, so that a leaked database opens no door."""
    return hashlib.sha256(visitor.encode()).hexdigest()
