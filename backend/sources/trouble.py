"""What can go wrong while bytes are on their way, sorted by what to do about it. Knows nothing about who does it."""

from backend.errors import CriaError


class Trouble(Exception):
    """A request failed. ``error`` says so to a person if it comes to that.

    ``hopeless``: this server will not give this file, however often it is asked. ``strike``: it answered nonsense,
    which may pass, though not often. ``wait_s``: it asked for patience. With none of them it is the network.
    """

    def __init__(
        self, error: CriaError, *, hopeless: bool = False, strike: bool = False, wait_s: float | None = None
    ) -> None:
        super().__init__(error.key)
        self.error, self.hopeless, self.strike, self.wait_s = error, hopeless, strike, wait_s


class Stopped(Exception):
    """Somebody asked to stop while a request was under way."""
