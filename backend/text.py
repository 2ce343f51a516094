"""Everything Cria says, in every language, looked up by key. Knows nothing about who is listening.

Catalogues are TOML files under ``assets/locales/<language>/<area>.toml``; a key is ``area.name`` (nested tables add
dots). A template names its values in braces; ``{n:bytes}``, ``{n:rate}`` and ``{n:duration}`` format raw numbers, so
the code passes numbers and the catalogue decides how they read; ``{app}`` is how Cria is started and needs no value.
``{why:say}`` and ``{why:hint}`` put in the sentence of another key, with the same values. English is complete; another
language falls back to it.
"""

import re
import string
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from backend.units import bytes_text, duration_text, rate_text, speed_text

LOCALES = Path(__file__).resolve().parent.parent / "assets" / "locales"
LANGUAGES: Mapping[str, str] = {"en": "English", "zh-CN": "简体中文", "zh-TW": "繁體中文"}
Value = str | int | float | None


@dataclass(frozen=True)
class Message:
    """Something to say: a catalogue key and its values. Plain data, so it can cross a process or a file."""

    key: str
    params: Mapping[str, Value] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the inverse of ``from_json``."""
        return {"key": self.key, "params": dict(self.params)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Message":
        """Build a message from what ``to_json`` returned."""
        return Message(str(data["key"]), dict(data.get("params", {})))


class _Formatter(string.Formatter):
    """Formats raw numbers by unit, and shows a missing value as its name instead of failing."""

    _UNITS = {"bytes": bytes_text, "rate": rate_text, "speed": speed_text}

    def __init__(self, language: str, values: Mapping[str, Value]) -> None:
        self._language, self._values = language, values

    def get_value(self, key: int | str, args: Any, kwargs: Mapping[str, Any]) -> Any:  # noqa: ARG002 - the base's
        return kwargs.get(str(key), started_as(sys.executable) if key == "app" else f"{{{key}}}")

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec == "duration" and not isinstance(value, str):
            return duration(self._language, value)
        if format_spec == "guess" and not isinstance(value, str):
            return guess(self._language, value)
        if format_spec in _PARTS and isinstance(value, str):
            rest = {name: other for name, other in self._values.items() if other != value}  # so that it ends
            return say(self._language, f"{value}.{format_spec}", **rest)
        unit = self._UNITS.get(format_spec)
        if unit is not None:
            return value if isinstance(value, str) else unit(value)
        if value is None or (isinstance(value, str) and format_spec):
            return "?" if value is None else value
        return str(super().format_field(value, format_spec))


def started_as(interpreter: str) -> str:
    """Return the command that starts Cria in its own folder, by the interpreter that runs it.

    One of Cria's own environment is named with its way; of another only the name, for these words are for everybody.
    """
    home, python = LOCALES.parent.parent, Path(interpreter)
    name = python.relative_to(home).as_posix() if python.is_relative_to(home) else python.name
    return f"{name or 'python'} app.py"


_PARTS = ("say", "hint")  # of an error
_DURATION = ("units.seconds", "units.minutes", "units.hours")
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _flatten(prefix: str, table: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in table.items():
        key = f"{prefix}.{name}"
        flat.update(_flatten(key, value) if isinstance(value, dict) else {key: str(value).strip("\n")})
    return flat


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """Return every ``key -> template`` of one language; empty for a language without a folder."""
    flat: dict[str, str] = {}
    for path in sorted((LOCALES / language).glob("*.toml")):
        flat.update(_flatten(path.stem, tomllib.loads(path.read_text(encoding="utf-8"))))
    return flat


def has(key: str) -> bool:
    """Tell whether English, the complete language, has this key."""
    return key in catalogue("en")


def say(language: str, key: str, /, **params: Value) -> str:
    """Return the text for ``key`` in ``language``, else in English, else the key itself (a test forbids that)."""
    template = catalogue(language).get(key) or catalogue("en").get(key, key)
    values = {name: _shown(value) for name, value in params.items()}
    return _Formatter(language, values).vformat(template, (), values)


def duration(language: str, seconds: float | None) -> str:
    """Return seconds as a duration in one language."""
    words = [catalogue(language).get(key) or catalogue("en")[key] for key in _DURATION]
    return duration_text(seconds, words)


def roughly(language: str, seconds: float) -> str:
    """Return an estimate of time with no more figures than anybody believes: seconds, minutes, or hours and minutes."""
    if seconds < 90:
        return say(language, "units.seconds", n=round(seconds))
    minutes = round(seconds / 60)
    if minutes < 100:
        return say(language, "units.rough_minutes", m=minutes)
    hours, rest = divmod(round(minutes / 10) * 10, 60)
    return say(language, "units.rough_hours" if rest else "units.whole_hours", h=hours, m=rest)


def guess(language: str, seconds: float) -> str:
    """Return an estimate of time as people say it; tenths of a second would pretend to know."""
    if seconds < 1:
        return say(language, "setup.moment")
    return say(language, "setup.about", what=roughly(language, seconds))


def _shown(value: Value) -> Value:
    """Return a value as it may stand in a sentence: names out of hostile files can hold line breaks, terminal commands,
    marks that turn the reading direction, or half a character, and would say something else than the sentence."""
    if not isinstance(value, str):
        return value
    return _UNSEEN.sub(lambda found: _spelt(found[0]), value)


def plain_lines(text: str) -> str:
    """Return a text of many lines as a terminal may show it: line feeds and tabs stay, other hidden marks are spelt."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in "\n\t" else _spelt(found[0]), text)


def _spelt(mark: str) -> str:
    return mark.encode("unicode_escape").decode()


def tell(language: str, message: Message) -> str:
    """Return the text of a message in one language."""
    return say(language, message.key, **dict(message.params))


def pick_language(chosen: str | None, accepted: str | None) -> str:
    """Choose a language from a person's explicit choice, else from an Accept-Language header or a locale name.

    Any Chinese that names Hant, TW, HK or MO is Traditional; other Chinese is Simplified; everything else is English.
    """
    if chosen in LANGUAGES:
        return str(chosen)
    for part in (accepted or "").replace("_", "-").split(","):
        tag = part.split(";")[0].split(".")[0].strip().lower()
        if tag.startswith("zh"):
            traditional = any(mark in tag for mark in ("hant", "tw", "hk", "mo"))
            return "zh-TW" if traditional else "zh-CN"
        if tag and tag not in {"*"}:
            return "en"
    return "en"
