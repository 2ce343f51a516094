"""`fit` and the speeds of `check` in the terminal, on an imaginary machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backend.cli.chat import model_folder
from backend.cli.fit import fit, lines
from backend.cli.parser import build_parser
from backend.cli.speeds import check_lines
from backend.conversations import Conversations
from backend.engines.base import EngineOptions
from backend.engines.supervisor import Supervisor
from backend.errors import UsageError
from backend.fit.measured import Memo, Speeds
from backend.fit.result import Verdict
from backend.jobs.manager import JobManager
from backend.services import Services
from backend.settings import Settings
from backend.text import Message
from backend.units import bytes_text
from tests.backend.engines import tiny
from tests.backend.fit.machines import machine


@pytest.fixture
def services(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Services:
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    Memo(settings.data_dir).keep_speeds(Speeds(5e8, 3e8, 2e10, 4e9))  # of a day to come: never too old
    monkeypatch.setattr("backend.services.probe", lambda _: machine(64, 24))
    monkeypatch.setattr("backend.engines.fitting.measure", lambda *_, **__: Speeds(5e8, 3e8, 2e10, 4e9))
    return Services(
        settings,
        JobManager(settings.data_dir),
        Supervisor(settings.logs_dir),
        Conversations(settings.database),
        options=EngineOptions(engine="transformers"),
    )


def test_a_model_and_its_sums(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_model(services.settings.models_dir / "tiny")
    assert fit(build_parser().parse_args(["fit", "tiny"]), services) == 0
    text = capsys.readouterr().out
    assert text.startswith("Runs well\nRuns well on GPU 0: with a reserve it needs about ")
    assert text.index("GB free are enough") < text.index("Together, once loaded: ")
    assert fit(build_parser().parse_args(["fit", "tiny", "--json"]), services) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["best"]["way"]["device"]) == ("well", "cuda")


def test_the_headline_says_when_it_is_about_making_it(services: Services) -> None:
    found = services.outlook("vicuna-13b-v1.1")
    assert found.best is not None
    plain = list(lines(replace(found, verdict=found.best.verdict, remedy=None), "en"))
    assert plain[0] == "Runs well"
    lean = Message("fit.remedy.lean", {"need": 1, "free": 2})
    said = list(lines(replace(found, verdict=Verdict.TIGHT, remedy=lean), "en"))
    assert said[0] == "Tight, because of what setting it up takes"
    assert said[1].startswith("Remove sources")
    assert said[2] == "Once it is set up: " + plain[1]
    row = next(line for line in said if line.startswith("\nGPU 0"))
    assert "2,048 tokens" in row  # every way says for how long a conversation
    assert str(bytes_text(found.best.enough)) in plain[1]


def test_what_is_not_known_is_said_to_be_so(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.write_model(services.settings.models_dir / "odd")
    (folder / "config.json").write_text('{"model_type": "strange"}')
    fit(build_parser().parse_args(["fit", "odd"]), services)
    said = capsys.readouterr()
    assert said.out == "Not known\n"
    assert "no reason not to try" in said.err
    with pytest.raises(UsageError):
        fit(build_parser().parse_args(["fit", "nothing"]), services)


def test_check_says_speeds_and_how_large_a_model_may_be(services: Services) -> None:
    said = list(check_lines(build_parser().parse_args(["check"]), services))
    assert [line.split("  ")[0] for line in said] == ["Disk speed", "Memory speed", "Network speed", "Runs well"]
    assert "reads 500 MB/s, writes 300 MB/s" in said[0]
    assert said[2].endswith("not measured yet: the first download measures it, until then 10.0 MB/s are assumed")
    assert "busy" not in said[1]
    assert said[3].endswith("27B models in 4-bit, on GPU 0")


@pytest.mark.parametrize(("room", "told"), [(12, "up to about "), (0, "no room to set up any")])
def test_check_heeds_the_disk_as_the_page_does(
    services: Services, monkeypatch: pytest.MonkeyPatch, room: int, told: str
) -> None:
    monkeypatch.setattr("backend.services.probe", lambda _: replace(machine(64, 24), disk_free=room * 10**9))
    assert told in list(check_lines(build_parser().parse_args(["check"]), services))[3]


def test_check_says_that_the_machine_was_busy(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    Memo(services.settings.data_dir).keep_speeds(Speeds(5e8, 3e8, 2e10, 0.0, busy=True))
    monkeypatch.setattr("backend.engines.fitting.measure", lambda *_, **__: Speeds(5e8, 3e8, 2e10, 4e9, busy=True))
    assert "busy" in list(check_lines(build_parser().parse_args(["check"]), services))[1]


def test_what_the_command_line_fixed_stays(services: Services) -> None:
    tiny.write_model(services.settings.models_dir / "tiny")
    assert services.best_options("tiny") == services.options
    fixed = replace(services, options=EngineOptions(engine="transformers", bits=4, device="cpu"))
    assert fixed.best_options("tiny") == fixed.options
    assert services.outlook("tiny").verdict == "well"


def test_a_load_is_foretold(services: Services, tmp_path: Path) -> None:
    assert services.forecast(services.engine.status()) is None


def test_what_has_no_such_name_is_not_answered_with_the_flags_of_a_set_up(services: Services) -> None:
    with pytest.raises(UsageError) as caught:
        fit(build_parser().parse_args(["fit", "nosuch"]), services)
    assert caught.value.key == "fit.nothing"
    assert "--base" not in caught.value.text("en")


def test_the_name_of_a_recipe_is_answered_with_how_to_set_it_up(services: Services) -> None:
    with pytest.raises(UsageError) as caught:
        model_folder("vicuna-13b-v1.1", EngineOptions(), services)
    assert caught.value.key == "library.recipe_only"
    assert "setup vicuna-13b-v1.1" in caught.value.text("en")
    with pytest.raises(UsageError) as caught:
        model_folder("nosuch", EngineOptions(), services)
    assert caught.value.key == "library.unknown"
