"""The corpus of hostile files: each gets its own clear error; none is executed, crashes, hangs or fills the memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backend.errors import WeightsError
from backend.settings import ROOT
from backend.weights.adapter import open_adapter
from backend.weights.opening import open_checkpoint
from tests.backend.weights.hostile import CANARY, CASES, GOOD, read_all

NAMES = list(CASES)
PEAK = 400_000_000  # bytes of resident memory, the interpreter and numpy included


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Every folder of the corpus, opened in one child process with little memory that watches itself."""
    home = tmp_path_factory.mktemp("corpus")
    for number, (make, _) in enumerate(CASES.values()):
        (home / str(number)).mkdir()
        make(home / str(number))
    (home / "list").write_text("\n".join(str(home / str(number)) for number in range(len(NAMES))))
    environment = {**os.environ, CANARY: str(home / "canary"), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.backend.weights.hostile", str(home / "list")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert not (home / "canary").exists()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(NAMES), f"{NAMES[len(lines)]} ended the process ({done.returncode}): {done.stderr[-2000:]}"
    return dict(zip(NAMES, lines, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_folder_is_refused_in_words(name: str, answers: dict[str, dict[str, object]]) -> None:
    answer, wanted = answers[name], CASES[name][1]
    assert "crash" not in answer, answer
    if wanted == "opened" or (wanted == "either" and "opened" in answer):
        assert "opened" in answer, answer
        return
    assert "key" in answer, answer
    assert answer["key"] == wanted or wanted in ("", "either"), answer
    assert answer["did"] == []
    assert int(str(answer["peak"])) < PEAK
    assert answer["hint"]
    for text in answer["texts"]:
        lines = text.splitlines()
        assert len(lines) == 2, lines
        assert all(lines)
        assert len(text) < 1500
        assert not re.search(r"{[a-z]+(:[a-z]+)?}", text), text  # a value that the code does not give
        assert not any(mark in text for mark in "\x1b\0\x07\u202e\u2028"), repr(text)


def test_a_folder_name_that_cannot_be_is_said() -> None:
    with pytest.raises(WeightsError) as refused:
        open_checkpoint(Path("x" * 5000))
    assert refused.value.key == "weights.cannot_read"
    with pytest.raises(WeightsError):
        open_checkpoint(Path("a\0b"))
    with pytest.raises(WeightsError):
        open_adapter(Path("x" * 5000))


def test_a_file_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is made up."""

    def refuse(path: Path, *_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    for kind, make in GOOD.items():
        folder = tmp_path / kind
        folder.mkdir()
        make(folder)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", refuse)
            with pytest.raises(WeightsError) as refused:
                read_all(folder)
        assert refused.value.key == "weights.cannot_read", kind
        assert "Permission denied" in refused.value.text()
