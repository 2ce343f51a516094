"""How fast this machine reads, writes and downloads, in bytes a second, and whether that was measured or is a guess.

Knows nothing about how it was measured.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Bytes a second. The guesses: what a plain disk gives while hashing, and what a campus network gives."""

    read: float = 500e6
    write: float = 300e6
    network: float = 10e6
    disk_measured: bool = False
    network_measured: bool = False
