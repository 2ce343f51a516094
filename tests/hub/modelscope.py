"""ModelScope's REST endpoints: the list of a revision's files, one file by its path, the revisions there are.

As observed by those who use it without its SDK: answers come in an envelope with Code, Success and Data; every file has
a Sha256, small ones too; the default branch is ``master``; an unknown revision is a list that is null, with status 200;
weights are a redirect to a CDN, which answers ranges with 206, while small files come from the gateway, which sends the
range that was asked for with status 200. Knows nothing about faults or sockets.
"""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.hub.answer import Answer, Request, as_file, as_json, whole
from tests.hub.content import Content
from tests.hub.repository import MAIN, Repository, folders, is_lfs

if TYPE_CHECKING:
    from tests.hub.server import Hub

MASTER = "master"
_NO_FILE, _NO_MODEL, _NO_ACCESS = 10990101007, 10010205001, 10990101008
_BLOB_MODE, _TREE_MODE = "33188", "16384"
_WHEN = 1_680_000_000  # a committed date, in seconds since 1970


def answer(hub: "Hub", request: Request) -> Answer | None:
    """Answer a request that is ModelScope's to answer, None where it is not."""
    match request.parts:
        case ["api", "v1", "models", owner, name, *rest]:
            found = hub.repositories.get(f"{owner}/{name}")
            if found is None:
                return _envelope("info", None, status=404, code=_NO_MODEL, message="record not found")
        case ["models", owner, name, "resolve", revision, *path] if path:
            found = hub.repositories.get(f"{owner}/{name}")
            if found is None:
                return _envelope("none", None, status=404, code=_NO_MODEL, message="record not found")
            return _file(hub, request, found, revision, "/".join(path))
        case _:
            return None
    revision = request.query.get("Revision") or MASTER
    if rest == ["revisions"]:
        branches = [{"Revision": MASTER if name == MAIN else name} for name in found.revisions]
        return _envelope("info", {"RevisionMap": {"Branches": branches, "Tags": []}})
    if rest == ["repo", "files"]:
        return _listed(request, found, revision)
    if rest == ["repo"]:
        return _file(hub, request, found, revision, request.query.get("FilePath", ""))
    return _envelope("none", None, status=404, code=_NO_FILE, message="not found")


def _envelope(kind: str, data: Any, *, status: int = 200, code: int = 200, message: str = "success") -> Answer:
    body = {"Code": code, "Data": data, "Message": message, "RequestId": "0", "Success": code == 200}
    return as_json(kind, body, status)


def _commit(found: Repository, revision: str) -> str | None:
    return found.commit(MAIN if revision == MASTER else revision)


def _listed(request: Request, found: Repository, revision: str) -> Answer:
    commit = _commit(found, revision)
    if commit is None:
        return _envelope("tree", {"Files": None, "IsVisual": 0, "LatestCommitter": None})
    root, deep = request.query.get("Root", "").strip("/"), request.query.get("Recursive", "").lower() == "true"
    prefix = f"{root}/" if root else ""
    files = found.files(commit)
    entries = [_entry(path, None, commit) for path in folders(files)]
    entries += [_entry(path, content, commit) for path, content in files.items()]
    shown = [
        entry
        for entry in entries
        if entry["Path"].startswith(prefix) and (deep or "/" not in entry["Path"][len(prefix) :])
    ]
    latest = {"Id": "", "ShortId": commit[:8], "CommittedDate": _WHEN}
    return _envelope("tree", {"Files": shown, "IsVisual": 0, "LatestCommitter": latest})


def _entry(path: str, content: Content | None, commit: str) -> dict[str, Any]:
    """Describe a file, or a folder where there is no content. ``Revision`` is the commit that last changed it."""
    common = {"Path": path, "Name": path.rpartition("/")[2], "Revision": commit, "CommittedDate": _WHEN,
              "CommitMessage": "", "CommitterName": "cria", "InCheck": False}  # fmt: skip
    if content is None:
        return {**common, "Type": "tree", "Size": 0, "Sha256": "", "IsLFS": False, "Mode": _TREE_MODE}
    sums = {"Size": content.size, "Sha256": content.sha256, "IsLFS": is_lfs(path, content), "Mode": _BLOB_MODE}
    return {**common, "Type": "blob", **sums}


def _file(hub: "Hub", request: Request, found: Repository, revision: str, path: str) -> Answer:
    commit = _commit(found, revision)
    content = found.files(commit).get(path) if commit else None
    if commit is None or content is None:
        return _envelope("none", None, status=404, code=_NO_FILE, message="file not found")
    if found.gated and not hub.tokens.get(request.token):
        return _envelope("none", None, status=403, code=_NO_ACCESS, message="no permission")
    if not is_lfs(path, content):
        given = as_file(request, content, "")
        return given.having(status=200) if given.status == 206 else given
    location = f"{hub.cdn}/cdn/{found.name}/{commit}/{quote(path)}?Expires=2000000000&Signature={content.sha256[:16]}"
    return whole("head" if request.method == "HEAD" else "link", 302, headers={"Location": location})
