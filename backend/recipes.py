"""Recipes: data that say where base, delta and LoRAs come from and what comes out. Knows nothing about machines.

A recipe is one TOML file, in ``assets/recipes/`` or in the data directory's ``recipes`` folder; it needs no code.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.errors import SourceError, UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KNOWN = {"name", "order", "recommended", "title", "about", "good_for", "licence", "languages", "parameters", "bytes",
          "context", "template", "base", "delta", "lora", "questions"}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One ingredient: a folder, or ``builtin:PATH`` under ``assets/``; ``scale`` is for LoRAs (None: as trained)."""

    source: str
    scale: float | None = None


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
    recommended: bool = False
    order: int = 100

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


def _part(table: Mapping[str, Any], where: str, path: Path) -> Part:
    source = table.get("source")
    if not isinstance(source, str) or not source:
        raise SourceError("recipes.bad_file", file=path.name, what=f'[{where}] needs source = "..."')
    scale = table.get("scale")
    return Part(source, None if scale is None else float(scale))


def _texts(value: Any, where: str, path: Path) -> dict[str, str]:
    texts = {"en": value} if isinstance(value, str) else value
    if not isinstance(texts, dict) or not isinstance(texts.get("en"), str):
        raise SourceError("recipes.bad_file", file=path.name, what=f"{where} needs an English text")
    return {str(language): str(text) for language, text in texts.items()}


def read_recipe(path: Path) -> Recipe:
    """Read and check one recipe file.

    Raises:
        SourceError: the file is not a recipe; the message names the file and the field.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise SourceError("recipes.bad_file", file=path.name, what=str(problem)) from problem
    unknown = sorted(set(data) - _KNOWN)
    if unknown:
        raise SourceError("recipes.bad_file", file=path.name, what=f"unknown field {unknown[0]}")
    if "base" not in data or "title" not in data or not isinstance(data.get("name"), str):
        raise SourceError("recipes.bad_file", file=path.name, what="name, title and [base] are required")
    return Recipe(
        name=check_name(data["name"]),
        title=_texts(data["title"], "title", path),
        about=_texts(data.get("about", ""), "about", path),
        good_for=_texts(data.get("good_for", ""), "good_for", path),
        base=_part(data["base"], "base", path),
        delta=_part(data["delta"], "delta", path) if "delta" in data else None,
        loras=tuple(_part(lora, "lora", path) for lora in data.get("lora", ())),
        template=data.get("template"),
        licence=_texts(data.get("licence", ""), "licence", path),
        languages=tuple(map(str, data.get("languages", ()))),
        parameters=data.get("parameters"),
        context=data.get("context"),
        questions=data.get("questions"),
        recommended=bool(data.get("recommended", False)),
        order=int(data.get("order", 100)),
    )


def read_recipes(folders: Iterable[Path]) -> tuple[Recipe, ...]:
    """Read every recipe of some folders, recommended first; a later folder's replaces an earlier one's of that name.

    Raises:
        SourceError: a file is not a recipe.
    """
    found: dict[str, Recipe] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.toml")):
            recipe = read_recipe(path)
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
    name: str, *, base: str, delta: str | None = None, loras: Iterable[str] = (), template: str | None = None
) -> Recipe:
    """Build a recipe from what a person typed; a LoRA may carry its scale as ``SOURCE:0.5``."""
    return Recipe(
        name=check_name(name),
        title={"en": name},
        base=Part(base),
        delta=Part(delta) if delta else None,
        loras=tuple(_scaled(lora) for lora in loras),
        template=template,
    )


def _scaled(text: str) -> Part:
    source, colon, scale = text.rpartition(":")
    if colon and re.fullmatch(r"\d+(\.\d+)?", scale):
        return Part(source, float(scale))
    return Part(text)
