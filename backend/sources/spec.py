"""What a person wrote for a source, understood: a repository, a file on the web, or something local.

    org/repo[@revision]  hf:org/repo[@revision]  modelscope:org/repo[@revision]  https://host/file[#sha256=HEX]

Links copied from the pages of huggingface.co, hf-mirror.com and modelscope.cn mean the repository they show, and so do
the commands of tutorials that fetch one. Pure: it looks at no disk, so whoever asks tries a local folder of that name
first. Knows nothing about networks.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from backend.errors import SourceError
from backend.recipes import understood
from backend.sources.archive import is_archive, is_other_archive

Kind = Literal["hf", "modelscope"]

_PREFIXES: dict[str, Kind] = {"hf:": "hf", "modelscope:": "modelscope"}
_PAGES: dict[str, tuple[Kind, str]] = {  # host -> kind, endpoint
    "huggingface.co": ("hf", "https://huggingface.co"),
    "www.huggingface.co": ("hf", "https://huggingface.co"),
    "hf.co": ("hf", "https://huggingface.co"),
    "hf-mirror.com": ("hf", "https://hf-mirror.com"),
    "modelscope.cn": ("modelscope", "https://www.modelscope.cn"),
    "www.modelscope.cn": ("modelscope", "https://www.modelscope.cn"),
}
_OTHER_PAGES = ("datasets", "spaces", "docs", "papers", "collections", "api", "blog")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_FOLDER = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99}/?){0,6}")
_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")
_LOCAL = (".", "/", "~", "builtin:")


@dataclass(frozen=True)
class Repository:
    """A repository on a hub. ``endpoint`` is empty unless a link named a host; ``folder`` is one inside it, if not all.

    ``file`` is an archive in that folder that a link pointed at, empty when the model's own files are meant.
    """

    kind: Kind
    name: str
    revision: str | None = None
    endpoint: str = ""
    folder: str = ""
    file: str = ""


@dataclass(frozen=True)
class WebFile:
    """One file at an address; ``sha256`` if the person gave it."""

    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class Local:
    """Something on this machine."""

    path: str


Spec = Repository | WebFile | Local


def parse(spec: str) -> Spec:
    """Return what a spec means.

    Raises:
        SourceError: a prefix or an address that cannot be used.
    """
    text = understood(spec)
    if text.startswith(("https://", "http://")):
        return _parse_link(text)
    for prefix, kind in _PREFIXES.items():
        if text.startswith(prefix):
            return _parse_repository(text, text.removeprefix(prefix), kind)
    name = text.partition("@")[0]
    if text.startswith(_LOCAL) or not _NAME.fullmatch(name) or _is_packed(name):
        return Local(text)
    return _parse_repository(text, text, "hf")


def _parse_repository(spec: str, text: str, kind: Kind, endpoint: str = "", folder: str = "") -> Repository:
    name, at, revision = text.partition("@")
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise SourceError("download.bad_repository", source=spec[:200])
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise SourceError("download.bad_revision", source=spec[:200], revision=revision[:100])
    if not _FOLDER.fullmatch(folder) or ".." in folder:
        raise SourceError("download.bad_repository", source=spec[:200])
    return Repository(kind, name, revision or None, endpoint, folder.rstrip("/"))


def _parse_link(text: str) -> Spec:
    try:
        link = urlsplit(text)
        host, _ = (link.hostname or "").lower(), link.port
    except ValueError as problem:
        raise SourceError("download.bad_address", source=text[:200]) from problem
    if not host or link.username is not None or re.search(r"[\x00-\x20\x7f\\]", text):
        raise SourceError("download.bad_address", source=_without_secrets(link)[:200])
    if page := _PAGES.get(host):
        return _parse_page(text, link, *page)
    sha256 = _SHA256.fullmatch(link.fragment)
    if link.scheme == "http" and not sha256 and host not in ("localhost", "127.0.0.1", "::1"):
        raise SourceError("download.plain_http", source=_without_secrets(link)[:200])
    return WebFile(link._replace(fragment="").geturl(), sha256[1].lower() if sha256 else None)


def _without_secrets(link: SplitResult) -> str:
    """Return an address that may be shown: without a password in front or a signature behind."""
    return f"{link.scheme}://{link.netloc.rpartition('@')[2]}{link.path}"


def _parse_page(text: str, link: SplitResult, kind: Kind, endpoint: str) -> Spec:
    """Understand the address of a hub's page: REPO, REPO/tree/REV/FOLDER, REPO/blob/REV/FILE, REPO/resolve/REV/FILE."""
    parts = [unquote(part) for part in link.path.strip("/").split("/")]
    if parts[0] == "models" and len(parts) > 2:
        parts = parts[1:]
    if len(parts) < 2 or parts[0] in _OTHER_PAGES:
        raise SourceError("download.not_a_model_page", source=text[:200])
    revision, rest, is_file = "", parts[2:], False
    match rest:
        case ["tree", rev, *inner]:
            revision, rest = rev, inner
        case [("blob" | "resolve" | "raw"), rev, *inner] | ["file", "view", rev, *inner]:
            revision, rest, is_file = rev, inner, True
        case _:
            revision, rest = parse_qs(link.query).get("revision", [""])[0], []
    folder = "/".join(rest[:-1] if is_file else rest)
    named = "/".join(parts[:2]) + (f"@{revision}" if revision else "")
    found = _parse_repository(text, named, kind, endpoint, folder)
    if is_file and rest and _is_packed(rest[-1]):
        return Repository(kind, found.name, found.revision, found.endpoint, found.folder, rest[-1])
    return found


def _is_packed(name: str) -> bool:
    path = Path(name)
    return is_archive(path) or is_other_archive(path)
