"""What an engine prints is kept, file by file, and old files go."""

import io
import os
from pathlib import Path

from backend.engines.log import KEPT, EngineLog, clear_old_logs
from backend.errors import EngineError
from backend.text import LANGUAGES

NOBODY = 2**22 + 1  # Linux has no process of a higher number than 2^22


def test_lines_are_kept_and_written(tmp_path: Path) -> None:
    log = EngineLog(io.BytesIO(b"".join(b"line %d \xff\n" % n for n in range(100))), tmp_path / "new", os.getpid())
    log.wait()
    assert log.tail()[-1] == "line 99 \ufffd"
    assert len(log.tail()) == 50
    assert log.last_words(2) == "\nline 98 \ufffd\nline 99 \ufffd"
    assert len((tmp_path / "new" / log.name).read_text("utf-8").splitlines()) == 100


def test_no_last_words_leave_no_trace(tmp_path: Path) -> None:
    log = EngineLog(io.BytesIO(b""), tmp_path, os.getpid())
    log.wait()
    assert log.last_words() == ""
    for language in LANGUAGES:
        said = EngineError("engine.killed", signal="SIGKILL", log=log.last_words()).text(language).splitlines()
        assert len(said) == 2
        assert said[0].endswith((".", "。"))


def test_old_files_go_and_those_of_living_engines_stay(tmp_path: Path) -> None:
    living = tmp_path / f"engine-20200101-000000-{os.getpid()}.log"
    gone = [tmp_path / f"engine-20250101-0000{n:02d}-{NOBODY + n}.log" for n in range(KEPT + 3)]
    for path in [living, *gone, tmp_path / "jobs.log"]:
        path.touch()
    clear_old_logs(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([living, *gone[-KEPT:], tmp_path / "jobs.log"])
