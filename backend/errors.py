"""The exception tree. Every error is a catalogue key with its values: what is wrong, and a way out.

    CriaError
    |- UsageError        a flag, option or form value cannot be used (exit code 2)
    |- MachineError      this machine cannot do it now: disk, memory, port, permission, missing device
    |- SourceError       the place bytes should come from does not have them
    |- WeightsError      bytes on disk are not what they should be
    |- JobError          a job cannot be started, resumed or deleted
    |- EngineError       an engine did not load, died, hung or refused a request
    |  '- ContextFull    the conversation does not fit the model's context
    |- Refused           the caller may not do this
    '- Cancelled         somebody asked to stop; not a failure

Values named in ``PRIVATE`` are for administrators. Knows nothing about pages, terminals or HTTP: each edge renders
``message`` and ``hint`` in its own way.
"""

from collections.abc import Mapping
from typing import Any

from backend.text import Message, Value, has, tell

PRIVATE = frozenset({"log", "path", "folder", "kept", "file", "source"})  # an engine's words, folders of this machine


class CriaError(Exception):
    """Something a person should read. ``key`` names a catalogue table with ``say`` and, mostly, ``hint``."""

    def __init__(self, key: str, /, **params: Value) -> None:
        super().__init__(key)
        self.key = key
        self.params = params

    @property
    def message(self) -> Message:
        """What is wrong, with the offending value."""
        return Message(f"{self.key}.say", self.params)

    @property
    def hint(self) -> Message | None:
        """The way out, if the catalogue has one."""
        key = f"{self.key}.hint"
        return Message(key, self.params) if has(key) else None

    def text(self, language: str = "en") -> str:
        """Return message and hint as one string, the hint on a line of its own."""
        lines = [tell(language, self.message)] + ([tell(language, self.hint)] if self.hint else [])
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``error_from_json`` rebuilds the same class."""
        return {"kind": type(self).__name__, "key": self.key, "params": self.params}


class UsageError(CriaError):
    """A flag, option or form value cannot be used."""


class MachineError(CriaError):
    """This machine cannot do it now."""


class SourceError(CriaError):
    """The place bytes should come from does not have them."""


class WeightsError(CriaError):
    """Bytes on disk are not what they should be."""


class JobError(CriaError):
    """A job cannot be started, resumed or deleted."""


class EngineError(CriaError):
    """An engine did not load, died, hung or refused a request."""


class ContextFull(EngineError):
    """The conversation does not fit the model's context."""


class Refused(CriaError):
    """The caller may not do this."""


class Cancelled(CriaError):
    """Somebody asked to stop."""


_KINDS: Mapping[str, type[CriaError]] = {
    kind.__name__: kind
    for kind in (
        CriaError,
        UsageError,
        MachineError,
        SourceError,
        WeightsError,
        JobError,
        EngineError,
        ContextFull,
        Refused,
        Cancelled,
    )
}


def error_from_json(data: Mapping[str, Any]) -> CriaError:
    """Rebuild an error from ``to_json``; an unknown kind becomes a plain ``CriaError``."""
    kind = _KINDS.get(str(data.get("kind")), CriaError)
    return kind(str(data["key"]), **dict(data.get("params", {})))


def unexpected(problem: BaseException) -> CriaError:
    """Wrap an exception nobody planned for, so that a person reads a sentence and the log keeps the traceback."""
    return CriaError("error.unexpected", kind=type(problem).__name__, what=str(problem)[:300])
