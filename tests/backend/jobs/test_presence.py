"""Which server looks after a data folder: the first one, until it is gone."""

import os
from pathlib import Path

from backend.jobs.presence import claim


def test_the_second_server_is_told_of_the_first_until_that_is_gone(tmp_path: Path) -> None:
    first = claim(tmp_path, "http://localhost:1/")
    second = claim(tmp_path, "http://localhost:2/")
    assert first.other is None
    assert second.other is not None
    assert (second.other.pid, second.other.url) == (os.getpid(), "http://localhost:1/")
    second.close()
    first.close()
    third = claim(tmp_path, "http://localhost:3/")
    assert third.other is None
    (tmp_path / "server.lock").write_text("not json", encoding="utf-8")
    fourth = claim(tmp_path, "http://localhost:4/")
    assert fourth.other is not None
    assert fourth.other.pid == 0
    third.close()
