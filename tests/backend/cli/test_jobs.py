"""The terminal's list of set-ups: whoever started one, it is watched, paused, resumed, cancelled, deleted here."""

import json
import time
from pathlib import Path

import pytest

from backend.cli.jobs import jobs
from backend.cli.parser import build_parser
from backend.errors import JobError
from backend.jobs.view import JobState
from backend.plan import make_plan
from backend.recipes import custom_recipe
from backend.services import Services


def run(services: Services, *words: str) -> int:
    return jobs(build_parser().parse_args(["jobs", *words]), services)


def wait(services: Services, state: JobState) -> None:
    deadline = time.monotonic() + 60.0
    while services.jobs.views()[0].state is not state:
        assert time.monotonic() < deadline, services.jobs.views()
        time.sleep(0.02)


def test_a_job_through_all_it_can_be_told(
    services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(services) == 0
    assert "no set-ups" in capsys.readouterr().err
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"x" * 100)
    plan = make_plan(custom_recipe("mine", base=str(base), template="slow"))  # stands still until it is paused
    job = services.jobs.start(plan)
    assert run(services, "--pause", "mine") == 0
    wait(services, JobState.CANCELLED)
    assert run(services, "--json") == 0
    assert [view["id"] for view in json.loads(capsys.readouterr().out)] == [job]
    assert run(services) == 0
    assert "Paused" in capsys.readouterr().out
    assert run(services, "--resume", job) == 0
    assert run(services, "--pause", job) == 0
    wait(services, JobState.CANCELLED)
    assert run(services, "--cancel", job) == 0
    assert "cancelled" in capsys.readouterr().err
    assert services.jobs.views() == ()
    assert list(services.settings.models_dir.iterdir()) == []
    for word in ("--watch", "--pause", "--resume", "--cancel", "--delete"):
        with pytest.raises(JobError, match="mine"):
            run(services, word, "mine")
