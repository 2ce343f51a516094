"""Listing a repository of the Hugging Face hub or of a mirror of it. The library is asked in a child process.

Knows nothing about fetching.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from backend.errors import SourceError
from backend.settings import ROOT
from backend.sources.listing import Entry, Listing, RemoteFile, checked_commit, checked_entries, choose, hub_url
from backend.sources.refusals import refusal
from backend.sources.retry import is_transient, retry_after, waits
from backend.sources.spec import Repository

TIMEOUT_S = 60.0
_TRIES = 3
_LONGEST_WAIT_S = 20.0


def list_hub(
    wanted: Repository,
    *,
    endpoint: str,
    token: str | None = None,
    timeout_s: float = TIMEOUT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Listing:
    """Return what is needed of a repository, pinned to the commit that its revision names now.

    ``token`` goes to ``endpoint`` and nowhere else.

    Raises:
        SourceError: not found, gated, no such revision, nothing usable in it, not a hub, or it did not answer.
    """
    endpoint, host = endpoint.rstrip("/"), endpoint.partition("://")[2].rstrip("/")
    question = {"endpoint": endpoint, "repository": wanted.name, "revision": wanted.revision, "token": token}
    deadline = time.monotonic() + timeout_s
    for wait in (*waits(_TRIES - 1), None):
        answer = _ask(question, host, deadline - time.monotonic())
        if "error" not in answer:
            break
        asked = retry_after(answer.get("wait"))
        pause = asked if asked is not None else wait
        if wait is None or pause is None or pause > _LONGEST_WAIT_S or not _may_pass(answer):
            raise _error(answer, wanted, endpoint, host, has_token=token is not None)
        sleep(pause)
    commit = checked_commit(answer.get("commit"), host)
    entries = checked_entries((_entry(row) for row in answer.get("files", ())), host)
    files = (_file(endpoint, wanted, commit, entry) for entry in choose(entries, wanted))
    return Listing("hf", wanted.name, commit, endpoint, tuple(files))


def _ask(question: Mapping[str, str | None], host: str, timeout_s: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "backend.sources.hub_child"],
            input=json.dumps(question),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=max(timeout_s, 0.1),
            check=False,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired as problem:
        raise SourceError("download.no_answer", host=host) from problem
    except ValueError as problem:  # it died: more memory than any honest listing needs
        raise SourceError("download.bad_listing", host=host, what="?") from problem
    return dict(answer)


def _may_pass(answer: Mapping[str, Any]) -> bool:
    """Tell whether asking again may help: transport troubles and overload."""
    status = answer["status"]
    if status is None:
        return not answer["host"] and answer["error"] in ("ConnectError", "ReadError", "RemoteProtocolError",
                                                          "ReadTimeout", "ConnectTimeout", "WriteError")  # fmt: skip
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
    if kind in ("JSONDecodeError", "KeyError", "TypeError", "AttributeError", "ValueError", "RecursionError"):
        return SourceError("download.not_a_hub", host=host)
    return SourceError("download.unreachable", host=host, what=kind)


def _entry(row: Any) -> Entry:
    path, size, blob, sha256 = row
    return Entry(path, size, sha256, None if sha256 is not None else blob)


def _file(endpoint: str, wanted: Repository, commit: str, entry: Entry) -> RemoteFile:
    name = entry.path.rpartition("/")[2]
    url = hub_url(endpoint, wanted.name, commit, entry.path)
    return RemoteFile(name, entry.size, url, entry.sha256, entry.git_sha1)
