"""How this run reaches the network for weights: which servers, with whose tokens, how fast.

It crosses into the worker of a job through that process's environment, never through a file: it holds secrets. Knows
nothing about what is fetched.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backend.errors import UsageError
from backend.sources.fetch import Options
from backend.sources.remote import HF_MIRROR, HUGGING_FACE, MODELSCOPE, Servers
from backend.sources.wire import Token, origin_of

VARIABLE = "CRIA_ACCESS"  # of a worker's environment
_SERVER = re.compile(r"https?://[A-Za-z0-9.\-:\[\]]{1,250}")
_SECRET = re.compile(r"[!-~]{1,500}")  # what fits into a header


@dataclass(frozen=True)
class DownloadChoice:
    """What a person chose for the downloads of one set-up: the only ``server`` to ask (empty: the usual ones), a token
    for it, and the most bytes a second.
    """

    server: str = ""
    token: str = field(default="", repr=False)
    rate: float | None = None


@dataclass(frozen=True)
class Access:
    """``hubs`` in order of preference; ``modelscope`` is None where it is not to be asked; ``rate`` in bytes a second,
    None for no limit; ``cache`` is a Hugging Face cache that is on this machine already; ``chosen`` is the server that
    a person wants for this set-up, which comes first even for what was listed before they wanted it.
    """

    hubs: tuple[str, ...] = (HUGGING_FACE, HF_MIRROR)
    modelscope: str | None = MODELSCOPE
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    cache: Path | None = None
    rate: float | None = None
    chosen: str = ""

    @property
    def servers(self) -> Servers:
        """Who may be asked what there is."""
        return Servers(self.hubs, self.modelscope, self.tokens)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every server that may be asked, in order of preference."""
        return (*self.hubs, *([self.modelscope] if self.modelscope else []))

    @property
    def options(self) -> Options:
        """How to fetch."""
        return Options(rate=self.rate, tokens=self.tokens, cache=self.cache)

    def through(self, server: str, *, token: str = "", rate: float | None = None) -> "Access":
        """Return this as a person wants it for one set-up: the only server to ask (empty: the usual ones) and so on.

        The token goes to that server; where none was chosen, to the first of the usual ones and to no other.

        Raises:
            UsageError: an address or a token that cannot be one.
        """
        endpoint, secret = server.strip().rstrip("/"), token.strip()
        if endpoint and not _SERVER.fullmatch(endpoint):
            raise UsageError("fetchui.bad_server", server=endpoint[:100])
        if secret and not _SECRET.fullmatch(secret):
            raise UsageError("fetchui.bad_token")
        chosen = replace(self, rate=rate or self.rate, chosen=endpoint)
        if endpoint == MODELSCOPE:
            chosen = replace(chosen, hubs=(), modelscope=MODELSCOPE)
        elif endpoint:
            chosen = replace(chosen, hubs=(endpoint,), modelscope=None)
        if secret:
            owner = endpoint or (self.hubs[0] if self.hubs else MODELSCOPE)
            others = (one for one in self.tokens if origin_of(one.origin) != origin_of(owner))
            chosen = replace(chosen, tokens=(Token(owner, secret), *others))
        return chosen

    def to_environment(self) -> dict[str, str]:
        """Return the variables that carry this into a worker; the inverse of ``from_worker``."""
        table = {
            "hubs": self.hubs,
            "modelscope": self.modelscope,
            "tokens": [[token.origin, token.secret] for token in self.tokens],
            "cache": str(self.cache) if self.cache else None,
            "rate": self.rate,
            "chosen": self.chosen,
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
            chosen=table["chosen"],
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
        chosen=chosen if only else "",
    )
