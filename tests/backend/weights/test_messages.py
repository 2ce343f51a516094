"""Every sentence of the weights package is in all three catalogues, with the values that the code passes."""

import ast
import re
import string
from pathlib import Path

import pytest

from backend.text import LANGUAGES, catalogue

AREAS = ("weights.", "files.", "delta.", "lora.")  # catalogues that only this package uses
PACKAGE = Path(__file__).resolve().parents[3] / "backend" / "weights"


def uses() -> dict[str, set[str]]:
    """Return key -> names of the values passed with it, from the source."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            key = node.args[0].value
            if not isinstance(key, str) or not key.startswith(AREAS):
                continue
            names = {keyword.arg for keyword in node.keywords if keyword.arg}
            if len(node.args) > 1 and isinstance(node.args[1], ast.Dict):
                names |= {entry.value for entry in node.args[1].keys if isinstance(entry, ast.Constant)}
            found.setdefault(key, set()).update(names)
    return found


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_every_key_has_its_text_and_its_values() -> None:
    english = catalogue("en")
    found = uses()
    assert len(found) > 80
    for key, names in found.items():
        texts = [english[key]] if key in english else [english[f"{key}.say"], english[f"{key}.hint"]]
        for text in texts:
            assert fields(text) <= names or "found." in key, key


def test_nothing_in_the_catalogue_is_unused() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.glob("*.py"))
    for key in catalogue("en"):
        if key.startswith(AREAS):
            assert f'"{re.sub(r".(say|hint)$", "", key)}"' in source, key


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_other_languages_say_the_same(language: str) -> None:
    english = {key: text for key, text in catalogue("en").items() if key.startswith(AREAS)}
    other = {key: text for key, text in catalogue(language).items() if key.startswith(AREAS)}
    assert other.keys() == english.keys()
    for key, text in english.items():
        assert fields(other[key]) == fields(text), key
