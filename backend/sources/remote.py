"""From what a person asked for to a listing: which server is asked, and which others have the same bytes.

Knows nothing about fetching.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from backend.errors import Cancelled, CriaError, SourceError
from backend.sources.hub import TIMEOUT_S, list_hub
from backend.sources.listing import Listing
from backend.sources.modelscope import list_modelscope
from backend.sources.spec import Repository, WebFile
from backend.sources.trouble import Stopped, Trouble
from backend.sources.web import list_web
from backend.sources.wire import Session, Token, token_for

HUGGING_FACE, HF_MIRROR = "https://huggingface.co", "https://hf-mirror.com"
MODELSCOPE = "https://www.modelscope.cn"
_LIST_S = 15.0
_PROBE_S = 4.0
_ALL_S = 90.0
_LOOK_S = 0.2
# Errors of a server rather than of what it was asked for.
_ELSEWHERE = ("offline", "unreachable", "no_answer", "silent", "server", "busy", "not_a_hub", "bad_listing",
              "certificate", "refused", "sent_elsewhere", "legal", "portal", "login")  # fmt: skip

# Those of them that say nothing of what was asked for: there is no network, or it does not reach a hub.
_SILENT = ("offline", "unreachable", "no_answer", "silent", "server", "busy", "not_a_hub", "bad_listing",
           "certificate")  # fmt: skip


def is_nobody_there(problem: CriaError) -> bool:
    """Tell whether an error means that no server could be asked, rather than that it does not have something."""
    return problem.key.startswith("proxy.") or problem.key in {f"download.{key}" for key in _SILENT}


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
        return token_for(endpoint, self.tokens)


@dataclass(frozen=True)
class Reach:
    """Whether a server answers: ``seconds`` until it did, None if it did not."""

    endpoint: str
    seconds: float | None


def list_remote(
    wanted: Repository | WebFile, *, servers: Servers, cancelled: Callable[[], bool] = lambda: False
) -> tuple[Listing, tuple[Listing, ...]]:
    """Return what is needed of a remote source, and listings of other servers with the same files.

    It takes a minute and a half at most, however slowly servers answer.

    Raises:
        SourceError: nobody has it, or nobody answers.
        Cancelled: ``cancelled`` said so.
    """
    session, over = Session(timeout_s=_LIST_S, proxies=servers.proxies), threading.Event()
    ends = time.monotonic() + _ALL_S
    threading.Thread(target=_end, args=(session, over, ends, cancelled), daemon=True, name="listing").start()
    try:
        if isinstance(wanted, WebFile):
            return list_web(wanted, session=session), ()
        if wanted.kind == "modelscope" or not (wanted.endpoint or servers.hubs):
            return _modelscope(wanted, wanted.endpoint or servers.modelscope or MODELSCOPE, servers, session), ()
        hubs = tuple(dict.fromkeys(hub.rstrip("/") for hub in (wanted.endpoint, *servers.hubs) if hub))
        found = _first(wanted, hubs, servers, ends=ends, cancelled=cancelled)
        others = [found.at(hub) for hub in hubs if hub != found.endpoint]
        return found, (*others, *_companion(wanted, servers, session))
    except Trouble as trouble:
        raise trouble.error from trouble
    except Stopped as stopped:
        if cancelled():
            raise Cancelled("listing.cancelled") from stopped
        raise SourceError("download.no_answer", host=_host(wanted, servers)) from stopped
    finally:
        over.set()
        session.close()


def _end(session: Session, over: threading.Event, ends: float, cancelled: Callable[[], bool]) -> None:
    """End what a session does when its time is over, or somebody asked to."""
    while not over.wait(_LOOK_S):
        if cancelled() or time.monotonic() > ends:
            session.abort()
            return


def _host(wanted: Repository | WebFile, servers: Servers) -> str:
    address = wanted.url if isinstance(wanted, WebFile) else wanted.endpoint or servers.modelscope or MODELSCOPE
    return urlsplit(address).netloc


def _first(
    wanted: Repository, hubs: Sequence[str], servers: Servers, *, ends: float, cancelled: Callable[[], bool]
) -> Listing:
    """Ask the hubs in turn, each for its share of the time; the first that answers sensibly decides."""
    problems: list[SourceError] = []
    for left, hub in zip(range(len(hubs), 0, -1), hubs, strict=True):
        token, share = servers.token(hub), max(0.0, ends - time.monotonic()) / left
        try:
            secret = token.secret if token else None
            return list_hub(wanted, endpoint=hub, token=secret, timeout_s=min(TIMEOUT_S, share), cancelled=cancelled)
        except SourceError as error:
            if error.key.partition(".")[2] not in _ELSEWHERE:
                raise
            problems.append(error)
    raise _everywhere(problems, hubs)


def _everywhere(problems: Sequence[SourceError], hubs: Sequence[str]) -> SourceError:
    """Return the trouble of all hubs that were asked: with all their names where none of them could be reached."""
    if not problems:
        return SourceError("download.no_answer", host="-")
    first, keys = problems[0], {problem.key for problem in problems}
    if len(problems) > 1 and keys <= {"download.offline", "download.no_answer"}:
        return SourceError(first.key, **{**first.params, "host": ", ".join(urlsplit(hub).netloc for hub in hubs)})
    return first


def _modelscope(wanted: Repository, endpoint: str, servers: Servers, session: Session) -> Listing:
    return list_modelscope(wanted, endpoint=endpoint, session=session, token=servers.token(endpoint))


def _companion(wanted: Repository, servers: Servers, session: Session) -> tuple[Listing, ...]:
    """Return ModelScope's listing of a repository of the same name; it counts only where hashes agree."""
    if servers.modelscope is None:
        return ()
    try:
        return (_modelscope(replace(wanted, revision=None), servers.modelscope, servers, session),)
    except (CriaError, Trouble, Stopped):
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
