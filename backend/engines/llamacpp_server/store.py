"""The GGUF files of a model folder: in a folder ``gguf`` inside it, so that they move and go with the model.

A file's name says its kind and what it was made from; a folder whose weights, settings or tokenizer have changed gets
another name, and the old file goes. Knows nothing about llama.cpp.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from backend.engines.folder import ModelFolder, small_json
from backend.errors import EngineError
from backend.events import Progress
from backend.library import CONVERTED, RECORD
from backend.locks import try_lock
from backend.storage import PART
from backend.weights.disk import inside
from backend.weights.gguf_file import write_gguf
from backend.weights.gguf_vocabulary import tokenizer_settings
from backend.weights.partial import writing

_VERSION = 1  # of what is written; a higher one makes every file anew
_OURS = re.compile(rf"[a-z0-9_]+-(?P<key>[0-9a-f]{{16}})\.gguf(?P<part>{re.escape(PART)})?")
_PATIENCE_S = 3600.0  # another process may be at the same work
_SMALL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
          "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")  # fmt: skip


def gguf_path(folder: ModelFolder, kind: str) -> Path:
    """Return where the file of that kind is, or will be."""
    return folder.path / CONVERTED / f"{kind}-{_key(folder)}.gguf"


def make_gguf(folder: ModelFolder, kind: str, report: Callable[[Progress], None]) -> Path:
    """Return the file of that kind, making it first unless it is there. ``report`` hears of source bytes read.

    Raises:
        WeightsError: the model cannot be written as GGUF, its files are damaged, or the place for it leads elsewhere.
        MachineError: no room, or the folder cannot be written.
        EngineError: another process has been at it for an hour.
    """
    path = gguf_path(folder, kind)
    inside(folder.path, CONVERTED)
    if path.is_file():
        _sweep(path)
        return path
    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
        lock = try_lock(path.parent / ".lock", patience_s=_PATIENCE_S)
        if lock is None:
            raise EngineError("gguf.busy", folder=folder.path.name)
        try:
            if not path.is_file():  # somebody else may have made it meanwhile
                _clear(path)
                _make(folder, kind, path, report)
        finally:
            os.close(lock)
    return path


def _make(folder: ModelFolder, kind: str, path: Path, report: Callable[[Progress], None]) -> None:
    part = path.with_name(path.name + PART)
    tokenizer = tokenizer_settings(folder.path, folder.checkpoint.shape.vocab, folder.eos)
    try:
        for progress in write_gguf(folder.checkpoint, path, kind=kind, tokenizer=tokenizer, part=part):
            report(progress)
    finally:
        part.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what an interrupted run left, unless somebody is at it now or the folder may not be written."""
    with contextlib.suppress(OSError):
        if any(other.suffix == PART for other in path.parent.iterdir()):
            lock = try_lock(path.parent / ".lock")
            if lock is not None:
                _clear(path)
                os.close(lock)


def _clear(path: Path) -> None:
    """Remove what an interrupted run left, and files made from what the folder held before; nobody else's files."""
    key = path.stem.rpartition("-")[2]
    for other in path.parent.iterdir():
        made = _OURS.fullmatch(other.name)
        if made and (made["part"] or made["key"] != key):
            other.unlink(missing_ok=True)


def _key(folder: ModelFolder) -> str:
    """Return a fingerprint of everything the file is made from: small files by content, weights by size and time, and
    by their sha256 where a set-up noted it."""
    digest = hashlib.sha256(json.dumps([_VERSION, folder.checkpoint.made_of, folder.eos]).encode())
    hashes = small_json(folder.path / RECORD).get("files")
    if isinstance(hashes, dict):
        names = (file.path.name for file in folder.checkpoint.files)
        digest.update(json.dumps({name: hashes.get(name) for name in names}, default=str).encode())
    for name in _SMALL:
        path = folder.path / name
        if path.is_file():
            digest.update(f"{name}:".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
