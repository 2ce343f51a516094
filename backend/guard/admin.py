"""Who may change the machine: whoever knows the administrator's token, or everybody where none is asked for.

The token is shown once per browser; after that a cookie stands for it that is signed with a key of this process, so
neither the token nor anything to guess it from travels again, and a restart ends every session. Knows nothing about
pages.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus

from backend.guard.denied import Denied
from backend.guard.throttle import Throttle

COOKIE = "cria_admin"
SESSION_S = 30 * 24 * 3600


class Admin:
    """Checks tokens and cookies. ``clock`` counts seconds and never jumps."""

    def __init__(self, token: str, *, listen: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        self._open = not token and not listen
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._throttle = Throttle(clock)

    @property
    def asks(self) -> bool:
        """Tell whether there is a token to give at all."""
        return bool(self._token)

    def knows(self, cookie: str | None) -> bool:
        """Tell whether this browser's administrator cookie is one of ours and still valid."""
        if self._open or not cookie:
            return self._open
        expires, _, signature = cookie.partition(".")
        if not expires.isdecimal() or len(expires) > 12 or not same(signature, self._signature(expires)):
            return False
        return self._clock() < int(expires)

    def check_token(self, token: str, *, client: str) -> None:
        """Let the right token through.

        Raises:
            Denied: 401, it is wrong; 429, too many wrong ones came from there, so this one was not even looked at.
        """
        if self._open:
            return
        wait_s = self._throttle.wait_s(client)
        if wait_s > 0:
            raise Denied(HTTPStatus.TOO_MANY_REQUESTS, "guard.tries", retry_s=wait_s + 0.5, wait=wait_s)
        if not self._token or not same(token, self._token):
            self._throttle.wrong(client)
            raise Denied(HTTPStatus.UNAUTHORIZED, "guard.token")
        self._throttle.right(client)

    def new_cookie(self) -> str:
        """Return a cookie value for a browser whose token was right."""
        expires = str(int(self._clock()) + SESSION_S)
        return f"{expires}.{self._signature(expires)}"

    def _signature(self, expires: str) -> str:
        return hmac.new(self._key, expires.encode(), hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare in a time that tells nothing about where, or how long, the difference is."""
    return hmac.compare_digest(*(hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (one, other)))
