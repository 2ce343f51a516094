"""How this run reaches the network for weights: which servers, with whose tokens, how fast.

It crosses into the worker of a job through that process's environment, never through a file: it holds secrets. Knows
nothing about what is fetched.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.sources.fetch import Options
from backend.sources.remote import HF_MIRROR, HUGGING_FACE, MODELSCOPE, Servers
from backend.sources.wire import Token

VARIABLE = "CRIA_ACCESS"  # of a worker's environment


@dataclass(frozen=True)
class Access:
    """``hubs`` in order of preference; ``modelscope`` is None where it is not to be asked; ``rate`` in bytes a second,
    None for no limit; ``cache`` is a Hugging Face cache that is on this machine already.
    """

    hubs: tuple[str, ...] = (HUGGING_FACE, HF_MIRROR)
    modelscope: str | None = MODELSCOPE
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    cache: Path | None = None
    rate: float | None = None

    @property
    def servers(self) -> Servers:
        """Who may be asked what there is."""
        return Servers(self.hubs, self.modelscope, self.tokens)

    @property
    def options(self) -> Options:
        """How to fetch."""
        return Options(rate=self.rate, tokens=self.tokens, cache=self.cache)

    def to_environment(self) -> dict[str, str]:
        """Return the variables that carry this into a worker; the inverse of ``from_worker``."""
        table = {
            "hubs": self.hubs,
            "modelscope": self.modelscope,
            "tokens": [[token.origin, token.secret] for token in self.tokens],
            "cache": str(self.cache) if self.cache else None,
            "rate": self.rate,
        }
        return {VARIABLE: json.dumps(table)}

    @staticmethod
    def from_worker(environment: Mapping[str, str]) -> "Access":
        """Return what a worker was given; the usual servers and nobody's token if it was given nothing."""
        if VARIABLE not in environment:
            return Access()
        table: dict[str, Any] = json.loads(environment[VARIABLE])
        return Access(
            hubs=tuple(table["hubs"]),
            modelscope=table["modelscope"],
            tokens=tuple(Token(origin, secret) for origin, secret in table["tokens"]),
            cache=Path(table["cache"]) if table["cache"] else None,
            rate=table["rate"],
        )


def read_access(environment: Mapping[str, str], *, hub: str = "", rate: float | None = None) -> Access:
    """Return what flags and environment say, in the variables that people have set for huggingface_hub already.

    ``HF_TOKEN`` belongs to huggingface.co and goes nowhere else; a server that ``hub`` or ``HF_ENDPOINT`` names is the
    only one asked, with ``CRIA_HUB_TOKEN`` if it needs one: a lab's own mirror must not be told to anybody.
    """
    chosen = (hub or environment.get("HF_ENDPOINT", "")).rstrip("/")
    secrets = {
        HUGGING_FACE: environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN"),
        MODELSCOPE: environment.get("MODELSCOPE_API_TOKEN"),
        chosen: environment.get("CRIA_HUB_TOKEN"),
    }
    home = Path(environment.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(environment.get("HF_HUB_CACHE") or home / "hub")
    tokens = tuple(Token(origin, secret) for origin, secret in secrets.items() if origin and secret)
    only = chosen and chosen != HUGGING_FACE
    return Access(
        hubs=(chosen,) if only else (HUGGING_FACE, HF_MIRROR),
        modelscope=None if only else MODELSCOPE,
        tokens=tokens,
        cache=cache if cache.is_dir() else None,
        rate=rate,
    )
