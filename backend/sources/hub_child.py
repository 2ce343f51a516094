"""The child process that asks a hub for a commit and its files, through huggingface_hub.

    python -m backend.sources.hub_child < QUESTION

A process of its own, because the library reads its environment once, keeps one client for all, sets no bound to what a
server may answer, and follows the next page of a tree to any host with the token. The question comes on stdin, so that
the token is in no command line. Knows nothing about who asks, and checks no shapes: the parent does.
"""

import contextlib
import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

_MEMORY = 2 << 30  # bytes of address space
_ANSWER = 32 << 20  # bytes of one answer; a thousand files take 300 kB
_FILES = 20_001  # one more than is allowed, so that the parent can say so


class _Elsewhere(Exception):
    """The hub sent us to another host for what it should know itself."""


def _bound_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _guard(endpoint: str) -> None:
    """Keep the library's client to one origin and to answers of a sane length."""
    from huggingface_hub.utils import get_session

    home = urlsplit(endpoint)

    def before(request: Any) -> None:
        if (request.url.scheme, request.url.netloc.decode()) != (home.scheme, home.netloc):
            raise _Elsewhere(request.url.host)

    def after(response: Any) -> None:
        if int(response.headers.get("content-length") or 0) > _ANSWER:
            raise ValueError("answer too long")

    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = {"request": [*hooks["request"], before], "response": [*hooks["response"], after]}


def ask(endpoint: str, repository: str, revision: str | None, token: str | None) -> dict[str, Any]:
    """Return the commit and the files as plain data, unchecked."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    _guard(endpoint)
    api = HfApi(endpoint=endpoint, token=token or False, library_name="cria")
    commit = api.model_info(repository, revision=revision, timeout=20.0).sha
    files = []
    for item in api.list_repo_tree(repository, revision=commit, recursive=True):
        if isinstance(item, RepoFile):
            files.append((item.path, item.size, item.blob_id, item.lfs.sha256 if item.lfs else None))
        if len(files) >= _FILES:
            break
    return {"commit": commit, "files": files}


def main() -> None:
    """Answer one question; an error is its kind and, if there was one, the answer's status and code."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_", "HUGGINGFACE_"))]:
        del os.environ[name]
    os.environ.update({f"HF_HUB_DISABLE_{name}": "1" for name in ("IMPLICIT_TOKEN", "TELEMETRY", "XET")})
    question = json.load(sys.stdin)
    _bound_memory()
    try:
        answer = ask(**question)
    except Exception as problem:  # noqa: BLE001 - whatever the library or a hostile server brings about, the parent words it
        response = getattr(problem, "response", None)
        headers = getattr(response, "headers", {})
        answer = {
            "error": type(problem).__name__,
            "status": getattr(response, "status_code", None),
            "code": headers.get("X-Error-Code"),
            "wait": headers.get("Retry-After"),
            "host": str(problem)[:200] if isinstance(problem, _Elsewhere) else None,
            "what": str(problem)[:100],
        }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
