"""The house budgets as a test: function and file lengths, no globals, docstrings, light imports, exact requirements."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.settings import ROOT

MAX_FUNCTION, WANTED_FUNCTION, MAX_FILE, WANTED_FILE = 80, 40, 500, 300
SOURCES = sorted([ROOT / "app.py", *(ROOT / "backend").rglob("*.py"), *(ROOT / "ui").rglob("*.py")])
MODULES = [path for path in SOURCES if path.read_text(encoding="utf-8").strip()]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every function with its lines, docstring left out."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines


def test_functions_are_short() -> None:
    found = [pair for path in MODULES for pair in functions(path)]
    assert [name for name, lines in found if lines > MAX_FUNCTION] == []
    long = [name for name, lines in found if lines > WANTED_FUNCTION]
    assert len(long) <= 0.05 * len(found), long


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert [str(path) for path, lines in lengths.items() if lines > MAX_FILE] == []
    long = [str(path) for path, lines in lengths.items() if lines > WANTED_FILE]
    assert len(long) <= 0.1 * len(lengths), long


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_its_job_and_keeps_no_global_state(path: Path) -> None:
    tree = parsed(path)
    assert ast.get_docstring(tree)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("statement", ["import app", "import backend.cli.commands, backend.cli.chat"])
def test_starting_costs_neither_torch_nor_gradio(statement: str) -> None:
    code = f"import sys; {statement}; print([m for m in ('torch', 'gradio', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_demo_is_small() -> None:
    total = sum(path.stat().st_size for path in (ROOT / "assets" / "demo").rglob("*") if path.is_file())
    assert 1_000_000 < total <= 15_000_000


def test_requirements_are_exact() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            wanted = line.partition("#")[0].strip()
            assert not wanted or wanted.startswith("-r ") or wanted.count("==") == 1, line


def test_the_readme_shows_the_real_tree() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.partition("## The house")[2].split("```")[3]
    named = set(re.findall(r"[\w.]+", tree))
    folders = {"", ".", "backend", "ui"}
    missing = [
        path
        for path in MODULES
        if path.name not in named and not {part.name for part in path.relative_to(ROOT).parents} - folders & named
    ]
    assert missing == []
    assert {name for name in named if name.endswith(".py")} <= {path.name for path in MODULES}
