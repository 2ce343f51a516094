"""The documents keep their promises: every command is one, every recipe they name is there, every link leads."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from backend.cli.parser import build_parser
from backend.recipes import read_recipe, read_recipes
from backend.settings import ASSETS, ROOT

DOCS = [ROOT / "docs" / name for name in ("tutorials.md", "recipes.md")]
NAMES = {recipe.name for recipe in read_recipes([ASSETS / "recipes"])}
COMMAND = re.compile(r"python app\.py(?: [^`\n|]*)?")


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_command_in_it_is_one(path: Path) -> None:
    found = [line.strip() for line in COMMAND.findall(path.read_text(encoding="utf-8"))]
    assert len(found) >= 3
    for line in found:
        args = build_parser().parse_args(shlex.split(line)[2:])
        if args.command == "setup" and args.recipe:
            assert args.recipe in NAMES, line


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_its_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists() or target.startswith("https://")


def test_recipes_in_the_document_are_recipes(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"), re.DOTALL)
    first, second = (tomllib.loads(block) for block in blocks)
    (tmp_path / "one.toml").write_text(blocks[0], encoding="utf-8")
    assert read_recipe(tmp_path / "one.toml").name == first["name"]
    built_in = tomllib.loads((ASSETS / "recipes" / f"{second['name']}.toml").read_text(encoding="utf-8"))
    built_in["lora"][1].pop("sha256")
    assert second == built_in


def test_every_field_is_described() -> None:
    from backend.recipes import reading

    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name in (*reading._OWN, *reading._SHARED, *reading._PART):
        assert f"`{name}`" in text or f"[{name}]" in text, name
