"""Listing a repository of the Hugging Face hub or of a mirror of it. The library is asked in a child process.

Knows nothing about fetching.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from backend.errors import Cancelled, SourceError
from backend.settings import ROOT
from backend.sources.listing import Entry, Listing, RemoteFile, checked_commit, checked_entries, choose, hub_url
from backend.sources.proxy import proxy_of
from backend.sources.refusals import refusal
from backend.sources.retry import is_transient, retry_after, waits
from backend.sources.spec import Repository
from backend.sources.trouble import Trouble

TIMEOUT_S = 60.0
_TRIES = 3
_LONGEST_WAIT_S = 20.0
_OFFLINE = ("ConnectError", "ConnectTimeout")  # httpx: nobody took the call
_LOOK_S = 0.2


def list_hub(
    wanted: Repository,
    *,
    endpoint: str,
    token: str | None = None,
    timeout_s: float = TIMEOUT_S,
    cancelled: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> Listing:
    """Return what is needed of a repository, pinned to the commit that its revision names now.

    ``token`` goes to ``endpoint`` and nowhere else.

    Raises:
        SourceError: not found, gated, no such revision, nothing usable in it, not a hub, or it did not answer.
        Cancelled: ``cancelled`` said so.
    """
    endpoint, host = endpoint.rstrip("/"), endpoint.partition("://")[2].rstrip("/")
    try:
        proxy_of(urlsplit(endpoint))
    except Trouble as problem:  # the library would end with a word about a missing package
        raise problem.error from problem
    question = {"endpoint": endpoint, "repository": wanted.name, "revision": wanted.revision, "token": token}
    deadline = time.monotonic() + timeout_s
    for wait in (*waits(_TRIES - 1), None):
        answer = _ask(question, host, deadline, cancelled)
        if "error" not in answer:
            break
        asked = retry_after(answer.get("wait"))
        pause = asked if asked is not None else wait
        longest = min(_LONGEST_WAIT_S, deadline - time.monotonic())
        if wait is None or pause is None or pause > longest or not _may_pass(answer):
            raise _error(answer, wanted, endpoint, host, has_token=token is not None)
        _rest(pause, sleep, cancelled)
    commit = checked_commit(answer.get("commit"), host)
    entries = checked_entries((_entry(row) for row in answer.get("files", ())), host)
    files = (_file(endpoint, wanted, commit, entry) for entry in choose(entries, wanted))
    return Listing("hf", wanted.name, commit, endpoint, tuple(files))


def _rest(seconds: float, sleep: Callable[[float], None], cancelled: Callable[[], bool]) -> None:
    while seconds > 0:
        if cancelled():
            raise Cancelled("listing.cancelled")
        sleep(min(seconds, _LOOK_S))
        seconds -= _LOOK_S


def _ask(
    question: Mapping[str, str | None], host: str, deadline: float, cancelled: Callable[[], bool]
) -> dict[str, Any]:
    asked: str | None = json.dumps(question)
    with subprocess.Popen(
        [sys.executable, "-m", "backend.sources.hub_child"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        try:
            while True:
                try:
                    answer, _ = child.communicate(asked, timeout=_LOOK_S)
                    break
                except subprocess.TimeoutExpired:
                    asked = None  # it has been told
                if cancelled():
                    raise Cancelled("listing.cancelled")
                if time.monotonic() > deadline:
                    raise SourceError("download.no_answer", host=host)
        finally:
            child.kill()  # one that has ended does not mind
    try:
        return dict(json.loads(answer))
    except (ValueError, TypeError) as problem:  # it died: more memory than any honest listing needs
        raise SourceError("download.bad_listing", host=host, what="?") from problem


def _may_pass(answer: Mapping[str, Any]) -> bool:
    """Tell whether asking again may help: transport troubles and overload."""
    status = answer["status"]
    if status is None:
        return not answer["host"] and answer["error"] in (*_OFFLINE, "ReadError", "RemoteProtocolError", "ReadTimeout",
                                                          "WriteError")  # fmt: skip
    return is_transient(status)


def _error(answer: Mapping[str, Any], wanted: Repository, endpoint: str, host: str, *, has_token: bool) -> SourceError:
    status, code, kind = answer["status"], answer["code"], answer["error"]
    if answer["host"]:
        return SourceError("download.sent_elsewhere", host=host, target=answer["host"])
    if kind in ("HFValidationError", "HfUriError"):
        return SourceError("download.bad_repository", source=wanted.name)
    if code == "RevisionNotFound":
        return SourceError("download.no_revision", repository=wanted.name, revision=wanted.revision, host=host)
    if status is not None:
        page = f"{endpoint}/{wanted.name}"
        return refusal(status, code, host=host, repository=wanted.name, page=page, has_token=has_token)
    if kind == "ProxyError":  # httpx: the status is the beginning of its text
        status = answer["what"][:3]
        if status == "407":
            return SourceError("proxy.login", host=host)
        return SourceError("proxy.refused", host=host, what=answer["what"] or kind)
    if kind in ("JSONDecodeError", "KeyError", "TypeError", "AttributeError", "ValueError", "RecursionError"):
        return SourceError("download.not_a_hub", host=host)
    if kind in _OFFLINE:
        return SourceError("download.offline", host=host)
    return SourceError("download.unreachable", host=host, what=answer["what"] or kind)


def _entry(row: Any) -> Entry:
    path, size, blob, sha256 = row
    return Entry(path, size, sha256, None if sha256 is not None else blob)


def _file(endpoint: str, wanted: Repository, commit: str, entry: Entry) -> RemoteFile:
    name = entry.path.rpartition("/")[2]
    url = hub_url(endpoint, wanted.name, commit, entry.path)
    return RemoteFile(name, entry.size, url, entry.sha256, entry.git_sha1)
