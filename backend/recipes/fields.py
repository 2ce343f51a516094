"""A recipe file's fields, each asked for by the type it must have; every refusal names file and field.

Knows nothing about what the fields mean.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from backend.errors import SourceError

_T = TypeVar("_T")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PAGE = re.compile(r"https://[!-~]{1,300}")
_LARGEST = 1 << 50


class Fields:
    """The fields of one table; ``where`` is the table's name with a dot, for sentences."""

    def __init__(self, file: str, table: Mapping[str, Any], where: str = "") -> None:
        self.file, self.table, self.where = file, table, where

    def __contains__(self, name: str) -> bool:
        return name in self.table

    def bad(self, name: str, value: object) -> SourceError:
        """Return the error for a field with a value that it cannot have."""
        return SourceError("recipes.bad_field", file=self.file, field=self.where + name, value=str(value)[:60])

    def only(self, known: Collection[str]) -> None:
        """Refuse a field that nothing reads: it is a slip of the pen.

        Raises:
            SourceError: there is one.
        """
        if unknown := sorted(set(self.table) - set(known)):
            raise SourceError("recipes.unknown_field", file=self.file, field=(self.where + unknown[0])[:60])

    def get(self, name: str, kind: type[_T], default: _T) -> _T:
        """Return a field of that type, or the default when it is not there.

        Raises:
            SourceError: it is of another type.
        """
        value = self.table.get(name, default)
        if kind is float and type(value) is int:
            value = float(value)
        if value is not default and type(value) is not kind:
            raise self.bad(name, value)
        return value

    def text(self, name: str) -> str:
        """Return a text that must be there and say something."""
        found = self.get(name, str, "")
        if not found:
            raise SourceError("recipes.missing_field", file=self.file, field=self.where + name)
        return found

    def count(self, name: str) -> int | None:
        """Return a number above zero, None when it is not there."""
        found = self.get(name, int, 0)
        if name in self.table and not 0 < found < _LARGEST:
            raise self.bad(name, found)
        return found or None

    def page(self, name: str) -> str:
        """Return the address of a page, empty when it is not there."""
        found = self.get(name, str, "")
        if found and not _PAGE.fullmatch(found):
            raise self.bad(name, found)
        return found

    def words(self, name: str) -> tuple[str, ...]:
        """Return a list of texts."""
        found = self.get(name, list, [])
        for word in found:
            if type(word) is not str or not word:
                raise self.bad(name, word)
        return tuple(found)

    def sums(self, name: str) -> dict[str, str]:
        """Return a table of sha256 sums by file name."""
        found = self.get(name, dict, {})
        for file, value in found.items():
            if type(value) is not str or not _SHA256.fullmatch(value):
                raise self.bad(f"{name}.{file}", value)
        return dict(found)

    def texts(self, name: str) -> dict[str, str]:
        """Return a text in several languages; a plain text is English."""
        if isinstance(self.table.get(name, ""), str):
            return {"en": self.get(name, str, "")}
        inner = self.inner(name)
        inner.text("en")
        return {language: inner.text(language) for language in self.table[name]}

    def inner(self, name: str) -> "Fields":
        """Return the fields of an inner table."""
        return Fields(self.file, self.get(name, dict, {}), f"{self.where}{name}.")

    def choice(self, name: str, known: tuple[str, ...]) -> str | None:
        """Return a field that must be one of some words, or None when it is not there."""
        found = self.get(name, str, "")
        if found and found not in known:
            raise self.bad(name, found)
        return found or None
