"""LoRAs on the command line and in the terminal's chat: which folder is meant, how strong, and switching between
questions. Knows nothing about how they are computed.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backend.engines.adapters import check_loras, choose_scales
from backend.engines.base import EngineOptions, Lora, Sampling
from backend.errors import UsageError
from backend.sources.store import list_downloads
from backend.text import say

COMMAND = "/lora"
_SHORT = 12  # digits of a commit, as the list of downloads shows it
_WEB = {"hf": "", "modelscope": "modelscope:", "web": "web:"}


def with_loras(options: EngineOptions, wanted: Sequence[str], downloads: Path) -> EngineOptions:
    """Return options with the adapters that were asked for: ``FOLDER`` or the name of a download, ``=SCALE`` or not.

    Raises:
        UsageError: nothing is there of that name, or not one thing, or the strength is none.
    """
    loras = tuple(_lora(text, downloads) for text in wanted)
    found = replace(options, loras=loras)
    check_loras(found)
    return found


def _lora(text: str, downloads: Path) -> Lora:
    """A folder may have "=" in its name: the whole text is tried first."""
    name, sign, strength = text.rpartition("=")
    if not sign or _is_folder(text):
        return Lora(str(_folder(text, downloads)))
    if not name:
        raise UsageError("attach.syntax", text=text[:200])
    return Lora(str(_folder(name, downloads)), _number(strength, text))


def _folder(name: str, downloads: Path) -> Path:
    if name and _is_folder(name):
        return Path(name).expanduser().resolve()
    stored = {
        f"{_WEB.get(one.kind, '')}{one.repository}@{one.revision[:_SHORT]}": one.folder
        for one in list_downloads(downloads)
        if one.is_complete
    }
    fitting = [full for full in stored if name in (full, full.partition("@")[0], full.partition("@")[0].split("/")[-1])]
    if len(fitting) > 1:
        raise UsageError("attach.several", name=name[:200], names=", ".join(fitting)[:300])
    if not fitting:
        raise UsageError("attach.no_folder", folder=name[:300])
    return stored[fitting[0]].resolve()


def _is_folder(text: str) -> bool:
    try:
        return Path(text).expanduser().is_dir()
    except (OSError, RuntimeError):  # too long for a name; "~" of somebody who is not there
        return False


def _number(strength: str, text: str) -> float:
    try:
        found = float(strength)
    except ValueError as problem:
        raise UsageError("attach.syntax", text=text[:200]) from problem
    return found if math.isfinite(found) else math.inf  # which the check refuses by name


def is_command(text: str) -> bool:
    """Tell whether what was typed is about adapters and not a question."""
    return text.split(" ", 1)[0] == COMMAND


def switched(text: str, loras: Sequence[Lora], sampling: Sampling) -> Sampling:
    """Return how to answer from now on: ``/lora NAME=0.5`` sets a strength, ``/lora NAME`` uses that one alone, ``off``
    none, ``reset`` all as they were attached. ``/lora`` changes nothing.

    Raises:
        UsageError: a name that is not attached, or a strength that makes no sense.
    """
    wanted = text.removeprefix(COMMAND).strip()
    names = [lora.name for lora in loras]
    if not wanted:
        return sampling
    if wanted in ("off", "reset") and wanted not in names:
        return replace(sampling, loras=() if wanted == "off" else None)
    name, sign, strength = wanted.rpartition("=")
    if wanted in names or not sign:
        alone = {wanted: next((lora.scale for lora in loras if lora.name == wanted), 1.0) or 1.0}
        found = replace(sampling, loras=tuple(alone.items()))
    else:
        now = dict(zip(names, choose_scales(loras, sampling), strict=True))
        found = replace(sampling, loras=tuple({**now, name.strip(): _number(strength, wanted)}.items()))
    choose_scales(loras, found)
    return found


def told(loras: Sequence[Lora], sampling: Sampling, language: str, *, key: str = "attach.now") -> str:
    """Return which adapters take part, in the words of ``key``."""
    mixed = [
        f"{lora.name} = {scale:g}" for lora, scale in zip(loras, choose_scales(loras, sampling), strict=True) if scale
    ]
    return say(language, key, names=", ".join(mixed)) if mixed else say(language, "attach.off")


def usage(loras: Sequence[Lora], language: str) -> str:
    """Return what can be typed."""
    return say(language, "attach.usage", known=", ".join(lora.name for lora in loras))
