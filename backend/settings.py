"""What this run was told: flags and environment, read once, frozen. Knows nothing about what they are used for.

Only ``app.py`` builds a ``Settings``; nothing else in the project reads the environment or the command line.
"""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

REPLY_S = 3600.0  # a page of text from a large model on a slow machine takes minutes; hours only what has gone wrong
ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"


@dataclass(frozen=True)
class Settings:
    """One run's settings. Paths are absolute; ``admin_token`` is empty when none is asked for (localhost)."""

    data_dir: Path = ROOT / "data"
    listen: bool = False
    port: int = 7860
    allow_hosts: tuple[str, ...] = ()
    admin_token: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    root_path: str = ""
    language: str = "en"
    debug: bool = False
    reply_s: float = REPLY_S  # the longest that one reply may take; 0: as long as it takes

    @property
    def models_dir(self) -> Path:
        """Finished model folders live here; one dropped in by hand appears in the app."""
        return self.data_dir / "models"

    @property
    def jobs_dir(self) -> Path:
        """One folder per job: its plan, its journal, its log."""
        return self.data_dir / "jobs"

    @property
    def recipes_dir(self) -> Path:
        """A person's own recipes."""
        return self.data_dir / "recipes"

    @property
    def downloads_dir(self) -> Path:
        """What was fetched, by server, repository and commit."""
        return self.data_dir / "downloads"

    @property
    def temp_dir(self) -> Path:
        """Private scratch space of this app (mode 0700)."""
        return self.data_dir / "tmp"

    @property
    def logs_dir(self) -> Path:
        """Engine logs."""
        return self.data_dir / "logs"

    @property
    def database(self) -> Path:
        """Conversations (SQLite)."""
        return self.data_dir / "cria.sqlite"

    @property
    def host(self) -> str:
        """The address to bind."""
        return "0.0.0.0" if self.listen else "127.0.0.1"  # noqa: S104 - what --listen asks for


def new_token() -> str:
    """Return a fresh 256-bit URL-safe secret."""
    return secrets.token_urlsafe(32)
