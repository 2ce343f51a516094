"""The Hugging Face hub's endpoints, as huggingface_hub 2.4.0 uses them: revision, tree, resolve, and the CDN behind it.

A branch or tag is answered with its commit; a tree comes in pages; an LFS file is a redirect to the CDN, which is
another origin and takes no token. Knows nothing about faults or sockets.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from tests.hub.answer import Answer, Request, as_file, as_json, whole
from tests.hub.content import Content, Literal
from tests.hub.repository import MAIN, Repository, folders, is_lfs

if TYPE_CHECKING:
    from tests.hub.server import Hub


def refused(kind: str, status: int, code: str, message: str) -> Answer:
    """Return an error as the hub words it: the code in a header decides the client's error class."""
    return as_json(kind, {"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})


def answer(hub: "Hub", request: Request) -> Answer | None:
    """Answer a request that is the hub's to answer, None where it is not."""
    match request.parts:
        case ["api", "models", owner, name, *rest]:
            found = hub.repositories.get(f"{owner}/{name}")
            return _described(hub, request, found, rest) if found else _no_repository(request, "info")
        case [owner, name, "resolve", revision, *path] if path:
            found = hub.repositories.get(f"{owner}/{name}")
            if not found:
                return _no_repository(request, "none")
            return _resolved(hub, request, found, revision, "/".join(path))
        case ["cdn", owner, name, commit, *path] if path:
            return _delivered(hub, request, f"{owner}/{name}", commit, "/".join(path))
    return None


def _no_repository(request: Request, kind: str) -> Answer:
    """Answer as the hub does: who shows no token is not told whether the repository exists."""
    return refused(kind, 404 if request.token else 401, "RepoNotFound", "Repository not found")


def _described(hub: "Hub", request: Request, found: Repository, rest: list[str]) -> Answer | None:
    what, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", MAIN)
    commit = found.commit(revision)
    if what not in ("revision", "tree") or commit is None:
        return refused("info", 404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if what == "tree":
        return _tree(hub, request, found.files(commit), "/".join(rest[2:]))
    siblings = [{"rfilename": path} for path in found.files(commit)]
    info = {"_id": commit[:24], "id": found.name, "modelId": found.name, "sha": commit, "private": False}
    return as_json("info", {**info, "gated": "auto" if found.gated else False, "tags": [], "siblings": siblings})


def _tree(hub: "Hub", request: Request, files: Mapping[str, Content], below: str) -> Answer:
    """List files and folders, a page at a time; the cursor is how many came before."""
    prefix = f"{below}/" if below else ""
    deep = request.query.get("recursive", "").lower() in ("1", "true")
    entries = [_folder_entry(path) for path in folders(files)] + [_entry(*pair) for pair in files.items()]
    shown = [
        entry
        for entry in entries
        if entry["path"].startswith(prefix) and (deep or "/" not in entry["path"][len(prefix) :])
    ]
    first = int(request.query.get("cursor", 0))
    last = first + int(request.query.get("limit", hub.page))
    headers = {}
    if last < len(shown):
        more = urlencode({**request.query, "cursor": last})
        headers["Link"] = f'<{hub.url}{request.path}?{more}>; rel="next"'
    return as_json("tree", shown[first:last], headers=headers)


def _folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": Literal(path.encode()).git_sha1, "size": 0, "path": path}


def _entry(path: str, content: Content) -> dict[str, Any]:
    if not is_lfs(path, content):
        return {"type": "file", "oid": content.git_sha1, "size": content.size, "path": path}
    pointer = Literal(content.pointer)
    lfs = {"oid": content.sha256, "size": content.size, "pointerSize": pointer.size}
    return {"type": "file", "oid": pointer.git_sha1, "size": content.size, "lfs": lfs, "path": path}


def _resolved(hub: "Hub", request: Request, found: Repository, revision: str, path: str) -> Answer:
    commit = found.commit(revision)
    if commit is None:
        return refused("none", 404, "RevisionNotFound", f"Invalid rev id: {revision}")
    content = found.files(commit).get(path)
    if content is None:
        return refused("none", 404, "EntryNotFound", "Entry not found").having({"X-Repo-Commit": commit})
    if found.gated and not hub.tokens.get(request.token):
        status = 403 if request.token in hub.tokens else 401
        return refused("none", status, "GatedRepo", f"Access to model {found.name} is restricted.")
    headers = {"X-Repo-Commit": commit}
    if not is_lfs(path, content):
        given = as_file(request, content, f'"{content.git_sha1}"', headers)
        return given.having(kind="head") if request.method == "HEAD" else given
    location = f"{hub.cdn}/cdn/{found.name}/{commit}/{quote(path)}?Expires=2000000000&Signature={content.sha256[:16]}"
    linked = {"ETag": f'"{content.sha256}"', "X-Linked-Etag": f'"{content.sha256}"', "X-Linked-Size": str(content.size)}
    kind = "head" if request.method == "HEAD" else "link"
    return whole(kind, 302, b"Found", {**headers, **linked, "Location": location})


def _delivered(hub: "Hub", request: Request, name: str, commit: str, path: str) -> Answer | None:
    """Answer as a store behind a CDN: its own ETag, no hub headers, a signature in the address instead of a token."""
    found = hub.repositories.get(name)
    content = found.commits.get(commit, {}).get(path) if found else None
    if content is None or request.query.get("Signature") != content.sha256[:16]:
        return whole("none", 403, b"<Error><Code>AccessDenied</Code></Error>", {"Content-Type": "application/xml"})
    return as_file(request, content, f'"{content.sha256[32:]}-1"')
