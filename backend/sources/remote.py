"""From what a person asked for to a listing: which server is asked, and which others have the same bytes.

Knows nothing about fetching.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from backend.errors import CriaError, SourceError
from backend.sources.hub import list_hub
from backend.sources.listing import Listing
from backend.sources.modelscope import list_modelscope
from backend.sources.spec import Repository, WebFile
from backend.sources.trouble import Trouble
from backend.sources.web import list_web
from backend.sources.wire import Session, Token, origin_of

HUGGING_FACE, HF_MIRROR = "https://huggingface.co", "https://hf-mirror.com"
MODELSCOPE = "https://www.modelscope.cn"
_LIST_S = 15.0
_PROBE_S = 4.0
# Errors of a server rather than of what it was asked for.
_ELSEWHERE = ("unreachable", "no_answer", "silent", "server", "busy", "not_a_hub", "bad_listing", "certificate",
              "refused", "sent_elsewhere", "legal")  # fmt: skip


@dataclass(frozen=True)
class Servers:
    """Who may be asked: servers with the hub's interface in order of preference, and ModelScope if it may be.

    ``tokens`` go to their own origins. ``proxies``: None for those of the environment.
    """

    hubs: tuple[str, ...] = (HUGGING_FACE, HF_MIRROR)
    modelscope: str | None = MODELSCOPE
    tokens: tuple[Token, ...] = ()
    proxies: Mapping[str, str] | None = None

    def token(self, endpoint: str) -> Token | None:
        """Return the token that was given for a server."""
        return next((token for token in self.tokens if origin_of(token.origin) == origin_of(endpoint)), None)


@dataclass(frozen=True)
class Reach:
    """Whether a server answers: ``seconds`` until it did, None if it did not."""

    endpoint: str
    seconds: float | None


def list_remote(wanted: Repository | WebFile, *, servers: Servers) -> tuple[Listing, tuple[Listing, ...]]:
    """Return what is needed of a remote source, and listings of other servers with the same files.

    Raises:
        SourceError: nobody has it, or nobody answers.
    """
    session = Session(timeout_s=_LIST_S, proxies=servers.proxies)
    try:
        if isinstance(wanted, WebFile):
            return list_web(wanted, session=session), ()
        if wanted.kind == "modelscope" or not (wanted.endpoint or servers.hubs):
            return _modelscope(wanted, wanted.endpoint or servers.modelscope or MODELSCOPE, servers, session), ()
        hubs = tuple(dict.fromkeys(hub.rstrip("/") for hub in (wanted.endpoint, *servers.hubs) if hub))
        found = _first(wanted, hubs, servers)
        others = [found.at(hub) for hub in hubs if hub != found.endpoint]
        return found, (*others, *_companion(wanted, servers, session))
    except Trouble as trouble:
        raise trouble.error from trouble
    finally:
        session.close()


def _first(wanted: Repository, hubs: Sequence[str], servers: Servers) -> Listing:
    """Ask the hubs in turn; the first that answers sensibly decides."""
    problem: CriaError | None = None
    for hub in hubs:
        token = servers.token(hub)
        try:
            return list_hub(wanted, endpoint=hub, token=token.secret if token else None)
        except SourceError as error:
            if error.key.partition(".")[2] not in _ELSEWHERE:
                raise
            problem = problem or error
    raise problem or SourceError("download.no_answer", host="-")


def _modelscope(wanted: Repository, endpoint: str, servers: Servers, session: Session) -> Listing:
    return list_modelscope(wanted, endpoint=endpoint, session=session, token=servers.token(endpoint))


def _companion(wanted: Repository, servers: Servers, session: Session) -> tuple[Listing, ...]:
    """Return ModelScope's listing of a repository of the same name; it counts only where hashes agree."""
    if servers.modelscope is None:
        return ()
    try:
        return (_modelscope(replace(wanted, revision=None), servers.modelscope, servers, session),)
    except (CriaError, Trouble):
        return ()


def probe(endpoints: Sequence[str], *, proxies: Mapping[str, str] | None = None) -> tuple[Reach, ...]:
    """Ask all servers at once whether they answer at all; takes a few seconds at most."""

    def ask(endpoint: str) -> Reach:
        session, began = Session(timeout_s=_PROBE_S, proxies=proxies), time.monotonic()
        try:
            session.get(f"{endpoint.rstrip('/')}/api/models?limit=1").close()
        except Trouble:
            return Reach(endpoint, None)
        finally:
            session.close()
        return Reach(endpoint, time.monotonic() - began)

    with ThreadPoolExecutor(max_workers=max(1, len(endpoints))) as pool:
        return tuple(pool.map(ask, endpoints))
