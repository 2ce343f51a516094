"""Forecasts for engines: options that fit, a forecast held against the fact, and remembered."""

from dataclasses import replace
from pathlib import Path

import pytest

from backend.engines.base import EngineOptions, EngineState, EngineStatus
from backend.engines.fitting import Fitting, best_options, dimensions_of, without
from backend.fit.measured import Speeds
from backend.hardware import GpuProcess
from backend.library import read_model
from tests.backend.engines import tiny
from tests.backend.fit.machines import GB, SEVEN, SIXTY, THIRTEEN, machine

TORCH = EngineOptions(engine="transformers")


@pytest.mark.parametrize(
    ("size", "hardware", "given", "wanted"),
    [
        (THIRTEEN, machine(64, 24), TORCH, replace(TORCH, bits=8)),
        (SEVEN, machine(64, 24), TORCH, TORCH),
        (THIRTEEN, machine(64, 24, 24, 4), TORCH, replace(TORCH, num_gpus=2)),
        (SIXTY, machine(300, 6), TORCH, replace(TORCH, device="cpu")),
        (SIXTY, machine(300), TORCH, TORCH),
        (THIRTEEN, machine(64, 24), replace(TORCH, bits=4), replace(TORCH, bits=4)),
        (THIRTEEN, machine(64, 24), replace(TORCH, device="cpu"), replace(TORCH, device="cpu")),
        (THIRTEEN, machine(64, 24), replace(TORCH, context=512), replace(TORCH, context=512, bits=8)),
        (THIRTEEN, machine(64, 24), EngineOptions(engine="echo"), EngineOptions(engine="echo")),
        (None, machine(64, 24), TORCH, TORCH),
        (THIRTEEN, machine(None, None), TORCH, TORCH),
    ],
)  # fmt: skip
def test_the_options_that_fit(
    tmp_path: Path, size: object, hardware: object, given: EngineOptions, wanted: EngineOptions
) -> None:
    outlook = Fitting(tmp_path).look(size, hardware, given)  # type: ignore[arg-type]
    assert best_options(outlook, given, hardware) == wanted  # type: ignore[arg-type]


def test_a_forecast_is_compared_once_and_makes_the_next_one_better(tmp_path: Path) -> None:
    folder, fitting = tiny.write_model(tmp_path / "tiny"), Fitting(tmp_path, clock=lambda: 9.0)
    ready = EngineStatus(EngineState.READY, "tiny", TORCH, memory_bytes=700_000_000)
    assert fitting.compare(ready) is None  # nobody foretold anything
    fitting.expect(folder, TORCH, machine(8))
    assert fitting.compare(replace(ready, state=EngineState.LOADING)) is None
    assert fitting.compare(replace(ready, model="other")) is None
    assert fitting.compare(replace(ready, memory_bytes=0)) is None  # not known yet
    first = fitting.compare(ready)
    assert first is not None
    assert (first.measured, first.gpu, first.before) == (700_000_000, False, None)
    assert 400_000_000 < first.predicted < 500_000_000
    assert fitting.compare(replace(ready, memory_bytes=800_000_000)) == first  # later growth is not the load's
    fitting.expect(folder, TORCH, machine(8))
    second = fitting.compare(ready)
    assert second is not None
    assert (second.predicted, second.before) == (700_000_000, 700_000_000)
    assert [(one.model, one.measured) for one in fitting.held("tiny")] == [("tiny", 700_000_000)]
    assert fitting.held("other") == ()


def test_what_was_foretold_of_another_engine_than_computes_is_forgotten(tmp_path: Path) -> None:
    folder, fitting = tiny.write_model(tmp_path / "tiny"), Fitting(tmp_path)
    for asked, computes in (("llamacpp", "transformers"), ("transformers", "llamacpp")):
        fitting.expect(folder, EngineOptions(engine=asked), machine(8))
        there = EngineStatus(EngineState.READY, "tiny", EngineOptions(engine=computes), memory_bytes=700_000_000)
        assert fitting.compare(there) is None
        assert fitting.compare(replace(there, options=EngineOptions(engine=asked))) is not None


def test_what_cannot_be_foretold_is_not(tmp_path: Path) -> None:
    folder, fitting = tiny.write_model(tmp_path / "tiny"), Fitting(tmp_path)
    for options, where in ((EngineOptions(engine="echo"), folder), (TORCH, tmp_path / "absent")):
        fitting.expect(where, options, machine(8))
        assert fitting.compare(EngineStatus(EngineState.READY, where.name, options, memory_bytes=5)) is None
    (folder / "config.json").write_text('{"model_type": "strange"}')
    fitting.expect(folder, TORCH, machine(8))
    assert fitting.compare(EngineStatus(EngineState.READY, "tiny", TORCH, memory_bytes=5)) is None


def test_the_context_is_that_of_the_set_up(tmp_path: Path) -> None:
    model = read_model(tiny.write_model(tmp_path / "tiny", context=256))
    size = dimensions_of(model)
    assert size is not None
    assert size.context == 256


def test_what_is_loaded_makes_room_for_the_next(tmp_path: Path) -> None:
    mine, other = GpuProcess(7, 3 * GB, None, None), GpuProcess(8, 4 * GB, None, None)
    hardware = machine(10, 5, held=(mine, other))
    seen = without(hardware, EngineStatus(EngineState.READY, "m", pid=7, memory_bytes=2 * GB))
    assert (seen.ram_free, seen.gpus[0].free_bytes, seen.gpus[0].processes) == (12 * GB, 8 * GB, (other,))
    assert without(hardware, EngineStatus()) is hardware


@pytest.mark.parametrize(("found", "kept"), [(0.4, 1.0), (1.05, 1.0), (1.2, 1.2), (None, 1.0)])
def test_a_memory_counts_as_faster_only_by_a_good_deal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: float | None, kept: float
) -> None:
    seen = iter([1e9, found and found * 1e9])
    monkeypatch.setattr("backend.engines.fitting.measure", lambda _, now: Speeds(1e8, 1e8, next(seen), now()))
    times = iter([0.0, 60.0, 60.0])
    fitting = Fitting(tmp_path, clock=lambda: next(times))
    fitting.measure_speeds(tmp_path)
    assert fitting.measure_speeds(tmp_path, again=True).memory == kept * 1e9


def test_the_memory_alone_is_measured_before_anything_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([5e9, 9e9])
    monkeypatch.setattr("backend.engines.fitting.memory_rate", lambda: next(found))
    monkeypatch.setattr("backend.engines.fitting.is_busy", lambda: False)
    fitting = Fitting(tmp_path)
    for _ in range(2):
        fitting.measure_memory()
        assert fitting.measured().speeds == Speeds(memory=5e9)


def test_how_fast_it_answered_is_remembered_of_the_way_it_was_loaded(tmp_path: Path) -> None:
    folder, fitting = tiny.write_model(tmp_path / "tiny"), Fitting(tmp_path)
    ready = EngineStatus(EngineState.READY, "tiny", TORCH, memory_bytes=700_000_000)

    def kept() -> list[float]:
        return [one.tokens_per_s for one in Fitting(tmp_path).held("tiny")]

    fitting.expect(folder, TORCH, machine(8))
    for rate, remembered in ((0.0, 0.0), (20.0, 20.0), (20.5, 20.0), (30.0, 30.0), (0.0, 30.0)):
        fitting.compare(ready, rate)
        assert kept() == [remembered]
    fitting.expect(folder, TORCH, machine(8))
    fitting.compare(ready)
    assert kept() == [30.0]  # nobody has asked anything since it was loaded again


def test_speeds_are_measured_once_a_week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [1000.0], []

    def measured(folder: Path, *, now: object) -> Speeds:
        calls.append(folder)
        return Speeds(1e8, 1e8, 1e9 * len(calls), now())  # type: ignore[operator]

    monkeypatch.setattr("backend.engines.fitting.measure", measured)
    fitting = Fitting(tmp_path, clock=lambda: now[0])
    first = fitting.measure_speeds(tmp_path)
    assert fitting.measure_speeds(tmp_path) == first
    assert fitting.measure_speeds(tmp_path, again=True) == first  # a moment ago
    now[0] += 60
    assert fitting.measure_speeds(tmp_path, again=True) == Speeds(1e8, 1e8, 2e9, 1060.0)
    now[0] += 8 * 24 * 3600
    assert fitting.measure_speeds(tmp_path).at == now[0]
    assert len(calls) == 3


def test_what_was_measured_on_a_busy_machine_is_measured_again_when_it_is_calm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, busy, rates = [1000.0], [True], iter([1e9, 4e9, 3e9])
    monkeypatch.setattr("backend.engines.fitting.is_busy", lambda: busy[0])
    monkeypatch.setattr("backend.engines.fitting.measure", lambda _, now: Speeds(1e8, 1e8, next(rates), now(), busy[0]))
    fitting = Fitting(tmp_path, clock=lambda: now[0])
    assert fitting.measure_speeds(tmp_path).busy
    now[0] += 60
    assert fitting.measure_speeds(tmp_path).memory == 1e9  # still busy
    busy[0] = False
    calm = fitting.measure_speeds(tmp_path)
    assert (calm.memory, calm.busy) == (4e9, False)
    now[0] += 60
    busy[0] = True
    again = fitting.measure_speeds(tmp_path, again=True)
    assert (again.memory, again.busy) == (4e9, False)  # the calm figure stays
    assert Fitting(tmp_path).measured().speeds == again
