"""Listing a repository of ModelScope through its REST interface. Knows nothing about fetching.

    GET /api/v1/models/ORG/REPO/repo/files?Revision=master&Recursive=true
        {"Code": 200, "Data": {"Files": [{"Path", "Type": "blob", "Size", "Sha256", "Revision"}, ...]}}
    GET /api/v1/models/ORG/REPO/repo?Revision=REV&FilePath=PATH

``Revision`` of a file is the commit that changed it last, and addresses those bytes whatever is pushed later. The
answer names no commit of the whole, so a sum over the files stands for one. An unknown revision has no list.
"""

import hashlib
import re
from typing import Any
from urllib.parse import urlencode, urlsplit

from backend.errors import SourceError
from backend.sources.listing import Entry, Listing, RemoteFile, checked_entries, choose
from backend.sources.refusals import refusal
from backend.sources.retry import is_transient
from backend.sources.spec import Repository
from backend.sources.wire import Session, Token

BRANCH = "master"
_LIMIT = 32 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")


def list_modelscope(wanted: Repository, *, endpoint: str, session: Session, token: Token | None = None) -> Listing:
    """Return what is needed of a repository.

    Raises:
        SourceError: not found, no such revision, nothing usable in it, or nonsense.
        Trouble: it did not answer.
    """
    endpoint, host = endpoint.rstrip("/"), urlsplit(endpoint).netloc
    base = f"{endpoint}/api/v1/models/{wanted.name}/repo"
    asked = wanted.revision or BRANCH
    url = f"{base}/files?{urlencode({'Revision': asked, 'Recursive': 'true'})}"
    status, data = session.get_json(url, token=token, limit=_LIMIT)
    if status != 200:
        if is_transient(status):
            raise SourceError("download.server", host=host, status=status)
        page = f"{endpoint}/models/{wanted.name}"
        raise refusal(status, None, host=host, repository=wanted.name, page=page, has_token=token is not None)
    rows = _rows(data, host)
    if rows is None:
        raise SourceError("download.no_revision", repository=wanted.name, revision=asked, host=host)
    entries = checked_entries(map(_entry, rows), host, hashed=False)
    chosen = choose(entries, wanted)
    total = hashlib.sha1(usedforsecurity=False)
    for entry in chosen:
        total.update(f"{entry.path}\n{entry.size}\n{entry.sha256}\n{entry.revision}\n".encode())
    files = tuple(_file(base, asked, entry) for entry in chosen)
    return Listing("modelscope", wanted.name, total.hexdigest(), endpoint, files)


def _rows(data: Any, host: str) -> list[dict[str, Any]] | None:
    try:
        rows = data["Data"]["Files"]
    except (KeyError, TypeError) as problem:
        raise SourceError("download.not_a_hub", host=host) from problem
    if rows is None:
        return None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError("download.not_a_hub", host=host)
    return [row for row in rows if row.get("Type") != "tree"]


def _entry(row: dict[str, Any]) -> Entry:
    revision = row.get("Revision")
    pinned = revision if isinstance(revision, str) and _COMMIT.fullmatch(revision) else None
    sha256 = row.get("Sha256") or None
    return Entry(row.get("Path"), row.get("Size"), sha256.lower() if isinstance(sha256, str) else sha256, None, pinned)


def _file(base: str, asked: str, entry: Entry) -> RemoteFile:
    url = f"{base}?{urlencode({'Revision': entry.revision or asked, 'FilePath': entry.path})}"
    return RemoteFile(entry.path.rpartition("/")[2], entry.size, url, entry.sha256)
