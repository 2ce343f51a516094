"""Where another server is: its address and the key to it, checked before anything is sent. Opens no connection."""

from pathlib import Path
from urllib.parse import urlsplit

from backend.errors import UsageError

_MAX_KEY = 10_000  # bytes of a key file


def check_url(url: str) -> str:
    """Return the address without its ``/v1`` and slashes at the end, as engine endpoints have it.

    Raises:
        UsageError: it is no address of a server, or carries something that belongs elsewhere, such as a password.
    """
    if not url.strip():
        raise UsageError("remote.no_url")
    try:
        parts = urlsplit(url.strip())
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise UsageError("remote.bad_url", url=_without_secrets(url)) from None
    plain = url.strip().isascii() and url.strip().isprintable() and " " not in url.strip()
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_fine or not plain:
        raise UsageError("remote.bad_url", url=_without_secrets(url))
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("remote.secret_in_url")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def host_of(url: str) -> str:
    """Return host and port as people name a server."""
    return urlsplit(url).netloc


def read_key(path: str) -> str:
    """Return the key in a file, empty when no file is named.

    Raises:
        UsageError: the file cannot be read, or holds something that is no key.
    """
    if not path:
        return ""
    try:
        with Path(path).expanduser().open("rb") as file:
            key = file.read(_MAX_KEY).strip()
    except (OSError, RuntimeError, ValueError) as problem:
        what = getattr(problem, "strerror", None) or type(problem).__name__
        raise UsageError("remote.key_file", file=path[:300], what=what) from problem
    if not key or not all(0x20 < byte < 0x7F for byte in key):
        raise UsageError("remote.no_key_inside", file=path[:300])
    return key.decode("ascii")


def _without_secrets(url: str) -> str:
    """Return what may be shown of a text that should have been an address: nothing before an ``@``, no query."""
    return url.rpartition("@")[2].partition("?")[0][:200]
