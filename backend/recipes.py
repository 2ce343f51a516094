"""Recipes: data that say where base, delta and LoRAs come from and what comes out. Knows nothing about machines.

A recipe is one TOML file, in ``assets/recipes/`` or in the data directory's ``recipes`` folder; it needs no code.
"""

import logging
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from backend.errors import CriaError, SourceError, UsageError

_LOG = logging.getLogger("cria.recipes")
_T = TypeVar("_T")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KNOWN = {"name", "order", "recommended", "title", "about", "good_for", "licence", "languages", "parameters", "bytes",
          "context", "template", "base", "delta", "lora", "questions", "dtype", "layout"}  # fmt: skip
DTYPES = ("float16", "bfloat16", "float32")
META = "meta"  # the layout of consolidated.NN.pth
LAYOUTS = ("huggingface", META)
RULES = ("auto", "zero", "mean")  # what a delta's extra embedding rows are added to


@dataclass(frozen=True)
class Part:
    """One ingredient: a folder, or ``builtin:PATH`` under ``assets/``.

    ``scale`` is for LoRAs (None: as trained), ``rule`` for deltas.
    """

    source: str
    scale: float | None = None
    rule: str = "auto"


@dataclass(frozen=True)
class Recipe:
    """What to make. ``title``, ``about``, ``good_for`` and ``licence`` map a language to text; English is there."""

    name: str
    title: Mapping[str, str]
    base: Part
    delta: Part | None = None
    loras: tuple[Part, ...] = ()
    template: str | None = None  # None: detected from evidence
    about: Mapping[str, str] = field(default_factory=dict)
    good_for: Mapping[str, str] = field(default_factory=dict)
    licence: Mapping[str, str] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    parameters: int | None = None
    context: int | None = None
    questions: str | None = None  # a JSON file beside the sources, with questions to suggest
    dtype: str | None = None  # number format of the result; None: the base's
    layout: str = "huggingface"  # or "meta": consolidated.NN.pth for programs that want those
    recommended: bool = False
    order: int = 100

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every ingredient, in the order they are used."""
        return (self.base, *([self.delta] if self.delta else []), *self.loras)

    def text(self, which: Mapping[str, str], language: str) -> str:
        """Return one of the texts in a language, else in English, else nothing."""
        return which.get(language) or which.get("en", "")


def check_name(name: str) -> str:
    """Return a model or recipe name that is safe as a folder name.

    Raises:
        UsageError: anything but lower-case letters, digits, dot, underscore and hyphen, 64 characters at most.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UsageError("recipes.bad_name", name=name[:80])
    return name


class _Fields:
    """A recipe file's fields, each asked for by the type it must have."""

    def __init__(self, file: str, table: Mapping[str, Any], where: str = "") -> None:
        self._file, self._table, self._where = file, table, where

    def get(self, name: str, kind: type[_T], default: _T) -> _T:
        """Return a field of that type, or the default when it is not there.

        Raises:
            SourceError: it is of another type.
        """
        value = self._table.get(name, default)
        if kind is float and type(value) is int:
            value = float(value)
        if value is not default and type(value) is not kind:
            raise SourceError("recipes.bad_field", file=self._file, field=self._where + name, value=str(value)[:60])
        return value

    def text(self, name: str) -> str:
        """Return a text that must be there and say something."""
        found = self.get(name, str, "")
        if not found:
            raise SourceError("recipes.missing_field", file=self._file, field=self._where + name)
        return found

    def texts(self, name: str) -> dict[str, str]:
        """Return a text in several languages; a plain text is English."""
        if isinstance(self._table.get(name, ""), str):
            return {"en": self.get(name, str, "")}
        inner = self.table(name)
        inner.text("en")
        return {language: inner.text(language) for language in self._table[name]}

    def table(self, name: str) -> "_Fields":
        """Return the fields of an inner table."""
        return _Fields(self._file, self.get(name, dict, {}), f"{name}.")

    def part(self) -> Part:
        """Return these fields as an ingredient."""
        scale = self.get("scale", float, -1.0)
        return Part(self.text("source"), None if scale < 0 else scale, self.choice("rule", RULES) or "auto")

    def choice(self, name: str, known: tuple[str, ...]) -> str | None:
        """Return a field that must be one of some words, or None when it is not there."""
        found = self.get(name, str, "")
        if found and found not in known:
            raise SourceError("recipes.bad_field", file=self._file, field=self._where + name, value=found[:60])
        return found or None

    def parts(self, name: str) -> tuple[Part, ...]:
        """Return a list of tables as ingredients."""
        rows = self.get(name, list, [])
        tables = [row if isinstance(row, dict) else {"source": row} for row in rows]
        return tuple(_Fields(self._file, table, f"{name}.").part() for table in tables)


def read_recipe(path: Path) -> Recipe:
    """Read and check one recipe file.

    Raises:
        SourceError: the file is not a recipe; the message names the file and the field.
        UsageError: its name cannot be a folder's.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as problem:
        raise SourceError("recipes.bad_file", file=path.name, what=str(problem)[:200]) from problem
    if unknown := sorted(set(data) - _KNOWN):
        raise SourceError("recipes.unknown_field", file=path.name, field=unknown[0][:60])
    fields = _Fields(path.name, data)
    title = fields.texts("title")
    if not title["en"]:
        raise SourceError("recipes.missing_field", file=path.name, field="title")
    return Recipe(
        name=check_name(fields.text("name")),
        title=title,
        about=fields.texts("about"),
        good_for=fields.texts("good_for"),
        base=fields.table("base").part(),
        delta=fields.table("delta").part() if "delta" in data else None,
        loras=fields.parts("lora"),
        template=fields.get("template", str, "") or None,
        licence=fields.texts("licence"),
        languages=tuple(map(str, fields.get("languages", list, []))),
        parameters=fields.get("parameters", int, 0) or None,
        context=fields.get("context", int, 0) or None,
        questions=fields.get("questions", str, "") or None,
        dtype=fields.choice("dtype", DTYPES),
        layout=fields.choice("layout", LAYOUTS) or "huggingface",
        recommended=fields.get("recommended", bool, False),
        order=fields.get("order", int, 100),
    )


def read_recipes(folders: Iterable[Path]) -> tuple[Recipe, ...]:
    """Read every recipe of some folders, recommended first; a later folder's replaces an earlier one's of that name.

    A file that is no recipe is logged and left out: one person's slip must not take everybody's recipes away.
    """
    found: dict[str, Recipe] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.toml")):
            try:
                recipe = read_recipe(path)
            except CriaError as problem:
                _LOG.warning("%s", problem.text())
            else:
                found[recipe.name] = recipe
    return tuple(sorted(found.values(), key=lambda recipe: (not recipe.recommended, recipe.order, recipe.name)))


def find_recipe(recipes: Iterable[Recipe], name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        UsageError: there is none; the message lists the known ones.
    """
    known = {recipe.name: recipe for recipe in recipes}
    if name not in known:
        raise UsageError("recipes.unknown", name=name[:80], known=", ".join(known) or "-")
    return known[name]


def custom_recipe(
    name: str,
    *,
    base: str,
    delta: str | None = None,
    loras: Iterable[str] = (),
    template: str | None = None,
    rule: str = "auto",
    dtype: str | None = None,
    layout: str = "huggingface",
) -> Recipe:
    """Build a recipe from what a person typed; a LoRA may carry its scale as ``SOURCE:0.5``.

    ``rule``, ``dtype`` and ``layout`` are one of ``RULES``, ``DTYPES`` and ``LAYOUTS``.

    Raises:
        UsageError: a name that cannot be a folder's, or a scale that is no number.
    """
    return Recipe(
        name=check_name(name),
        title={"en": name},
        base=Part(base),
        delta=Part(delta, rule=rule) if delta else None,
        loras=tuple(_scaled(lora) for lora in loras),
        template=template,
        dtype=dtype,
        layout=layout,
    )


def _scaled(text: str) -> Part:
    source, colon, scale = text.rpartition(":")
    if colon and re.fullmatch(r"\d+(\.\d+)?", scale):
        return Part(source, float(scale))
    if colon and not re.search(r"[/\\]", scale):  # what is left of a path or an address has a slash
        raise UsageError("recipes.bad_scale", scale=scale[:40], source=source[:120])
    return Part(text)
