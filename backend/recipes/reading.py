"""Recipe files and what they share: a file may leave to its family what all sizes have in common, and say that an
ingredient is ``like`` another recipe's.

A folder of recipes holds one TOML file each, and ``families/`` with one for each family. Knows nothing about machines.
"""

import logging
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from backend.dimensions import Dimensions
from backend.errors import CriaError, SourceError
from backend.recipes.fields import Fields
from backend.recipes.recipe import ADAPTER, DTYPES, LAYOUTS, META, RULES, Part, Recipe, check_name

_LOG = logging.getLogger("cria.recipes")
_SHARED = ("title", "about", "good_for", "licence", "languages", "tags", "template", "context", "order")
_OWN = ("name", "family", "size", "recommended", "parameters", "base", "delta", "lora", "questions", "dtype", "layout",
        "shape")  # fmt: skip
_PART = ("source", "like", "scale", "rule", "alternatives", "bytes", "layout", "access", "sha256")
FAMILIES = "families"
_LARGEST_FILE = 1 << 18  # bytes
Table = Mapping[str, Any]
_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Shared:
    """What a recipe may refer to: families, and other recipes, as their files have them."""

    families: Mapping[str, Table] = field(default_factory=dict)
    recipes: Mapping[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Collection:
    """The recipes that can be used, and what is wrong with the files that cannot."""

    recipes: tuple[Recipe, ...]
    problems: tuple[CriaError, ...]


def read_recipe(path: Path, shared: Shared | None = None) -> Recipe:
    """Read and check one recipe file.

    Raises:
        SourceError: the file is not a recipe; the message names the file and the field.
        UsageError: its name cannot be a folder's.
    """
    return _recipe(path.name, _load(path), shared or Shared())


def collect_recipes(folders: Iterable[Path]) -> Collection:
    """Read every recipe of some folders, recommended first; a later folder's replaces an earlier one's of that name.

    A file that is no recipe is left out and told about: one person's slip must not take everybody's recipes away.
    What was read is kept until a file changes.
    """
    paths = (path for folder in folders for part in (folder, folder / FAMILIES) for path in sorted(part.glob("*.toml")))
    return _collected(tuple((path, _stamp(path)) for path in paths))


@lru_cache(maxsize=8)
def _collected(files: tuple[tuple[Path, _Stamp], ...]) -> Collection:
    tables: dict[Path, Table] = {}
    problems: list[CriaError] = []
    for path, _ in files:
        try:
            tables[path] = _load(path)
        except CriaError as problem:
            problems.append(problem)
    families = {path.stem: table for path, table in tables.items() if path.parent.name == FAMILIES}
    own = {path: table for path, table in tables.items() if path.parent.name != FAMILIES}
    shared = Shared(families, {str(table.get("name")): table for table in own.values()})
    found: dict[str, Recipe] = {}
    for path, table in own.items():
        try:
            recipe = _recipe(path.name, table, shared)
        except CriaError as problem:
            problems.append(problem)
        else:
            found[recipe.name] = recipe
    for one in problems:
        _LOG.info("%s", one.text())  # who asks for the recipes is told
    return Collection(tuple(sorted(found.values(), key=_place)), tuple(problems))


def _stamp(path: Path) -> _Stamp:
    """Return what changes when a file does."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size


def read_recipes(folders: Iterable[Path]) -> tuple[Recipe, ...]:
    """Return the recipes of some folders that can be used, recommended first."""
    return collect_recipes(folders).recipes


def _place(recipe: Recipe) -> tuple[bool, int, str, int, str]:
    """Return what recipes are sorted by: recommended first, then by rank, family by family, the smaller size first."""
    return not recipe.recommended, recipe.order, recipe.family or recipe.name, recipe.parameters or 0, recipe.name


def _load(path: Path) -> Table:
    """Return a file's table.

    Raises:
        SourceError: it cannot be read, is no TOML, or is larger than any recipe.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise SourceError("recipes.too_large", file=path.name, size=size, most=_LARGEST_FILE)
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as problem:
        raise SourceError("recipes.bad_file", file=path.name, what=str(problem)[:200]) from problem


def _recipe(file: str, table: Table, shared: Shared) -> Recipe:
    own = Fields(file, table)
    own.only((*_OWN, *_SHARED))
    family, size = own.get("family", str, ""), own.get("size", str, "")
    name = check_name(own.text("name"))
    both = Fields(file, {**shared.families.get(family, {}), **table})
    title = both.texts("title")
    if not title["en"]:
        raise SourceError("recipes.missing_field", file=file, field="title")
    if "title" not in own and size:
        title = {language: f"{text} {size}" for language, text in title.items()}
    others = Shared(shared.families, {key: value for key, value in shared.recipes.items() if key != name})
    shape = _shape(own, others) if "shape" in own else None
    return Recipe(
        name=name,
        title=title,
        about=both.texts("about"),
        good_for=both.texts("good_for"),
        base=_part(own, "base", others),
        delta=_part(own, "delta", others) if "delta" in own else None,
        loras=_loras(own, others),
        template=both.get("template", str, "") or None,
        licence=both.texts("licence"),
        languages=both.words("languages"),
        parameters=shape.parameters if shape else own.count("parameters"),
        context=both.count("context"),
        questions=own.get("questions", str, "") or None,
        dtype=own.choice("dtype", DTYPES),
        layout=own.choice("layout", LAYOUTS) or "huggingface",
        recommended=own.get("recommended", bool, False),
        order=both.get("order", int, Recipe.order),
        family=family,
        size=size,
        shape=shape,
        tags=both.words("tags"),
    )


def _merged(table: Fields, role: str, shared: Shared) -> Fields:
    """Return the fields of an ingredient or a shape with those of the recipe that it is like behind them.

    Raises:
        SourceError: there is no such recipe, or it has nothing of that kind.
    """
    like = table.get("like", str, "")
    if not like:
        return table
    other = shared.recipes.get(like, {}).get(role)
    if role == "lora":
        other = other[-1] if isinstance(other, list) and other else None
    if not isinstance(other, dict):
        raise table.bad("like", like)
    rest = Shared(shared.families, {key: value for key, value in shared.recipes.items() if key != like})
    inherited = _merged(Fields(table.file, other, table.where), role, rest)
    mine = {key: value for key, value in table.table.items() if key != "like"}
    return Fields(table.file, {**inherited.table, **mine}, table.where)


def _part(recipe: Fields, role: str, shared: Shared) -> Part:
    return _ingredient(recipe.inner(role), role, shared)


def _loras(recipe: Fields, shared: Shared) -> tuple[Part, ...]:
    rows = recipe.get("lora", list, [])
    tables = [row if isinstance(row, dict) else {"source": row} for row in rows]
    return tuple(_ingredient(Fields(recipe.file, table, "lora."), "lora", shared) for table in tables)


def _ingredient(table: Fields, role: str, shared: Shared) -> Part:
    table = _merged(table, role, shared)
    table.only(_PART)
    scale = table.get("scale", float, -1.0)
    usual = ADAPTER if role == "lora" else "huggingface"
    return Part(
        source=table.text("source"),
        scale=None if scale < 0 else scale,
        rule=table.choice("rule", RULES) or "auto",
        alternatives=table.words("alternatives"),
        bytes=table.count("bytes"),
        layout=table.choice("layout", ("huggingface", META, ADAPTER)) or usual,
        access=table.page("access"),
        sha256=table.sums("sha256"),
    )


def _shape(recipe: Fields, shared: Shared) -> Dimensions:
    """Return the dimensions; ``kv_heads`` and ``head_dim`` are the usual ones where they are not there."""
    table = _merged(recipe.inner("shape"), "shape", shared)
    known = {one.name: one for one in dataclass_fields(Dimensions)}
    table.only(known)
    given: dict[str, Any] = {"kind": table.get("kind", str, "llama")}
    for name, one in known.items():
        if name == "kind" or name not in table:
            continue
        if one.type in (bool, "bool"):
            given[name] = table.get(name, bool, False)
        else:
            given[name] = table.get(name, int, 0) if name == "window_layers" else table.count(name)
    for name in ("vocab", "hidden", "layers", "heads", "ffn", "context"):
        if name not in given:
            raise SourceError("recipes.missing_field", file=table.file, field=f"shape.{name}")
    given.setdefault("kv_heads", given["heads"])
    given.setdefault("head_dim", given["hidden"] // given["heads"])
    if given["heads"] % given["kv_heads"]:
        raise table.bad("kv_heads", given["kv_heads"])
    return Dimensions(**given)
