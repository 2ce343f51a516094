"""Crashes, restarts, sleep, and the next smaller way to load."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.engines import memory
from backend.engines import options as options_module
from backend.engines import supervisor as module
from backend.engines.base import EngineOptions, EngineState, EngineStatus, Piece
from backend.engines.idle import Idle
from backend.engines.memory import computation_failed, memory_was_short
from backend.engines.recovery import Recovery
from backend.engines.smaller import smaller
from backend.engines.supervisor import Supervisor
from backend.engines.turns import Turns
from backend.errors import CriaError, EngineError, MachineError, UsageError, WeightsError
from backend.hardware import Hardware
from tests.backend.engines.conftest import READY_S, ask, machine, text_of

ECHO = EngineOptions(engine="echo")
KILLED = EngineError("engine.killed", signal="SIGKILL", log="")
Make = Callable[..., Supervisor]
GB = 10**9


def _until(engine: Supervisor, wanted: Callable[[EngineStatus], bool], seconds: float = READY_S) -> EngineStatus:
    end = time.monotonic() + seconds
    while not wanted(status := engine.status()):
        assert time.monotonic() < end, status
        time.sleep(0.01)
    return status


def test_three_crashes_in_ten_minutes_are_borne_and_old_ones_forgiven() -> None:
    now = 0.0
    recovery = Recovery((1, 5, 20), window_s=600, clock=lambda: now)
    assert [recovery.delay(KILLED, None) for _ in range(4)] == [1, 5, 20, None]
    now = 601.0
    assert recovery.delay(KILLED, None) == 1
    assert (recovery.restarts.count, recovery.restarts.after) == (4, KILLED)
    assert recovery.restarts.on(EngineStatus()).restarts == 4


def test_what_will_be_wrong_again_is_not_tried_again() -> None:
    assert Recovery().delay(WeightsError("engine.no_folder", folder="x"), None) is None
    assert Recovery().delay(UsageError("engine.bits", bits=3), None) is None


@pytest.mark.parametrize(
    ("now", "where", "context", "then"),
    [
        (EngineOptions(), machine(), 4096, {"context": 2048}),
        (EngineOptions(context=1500), machine(), 0, {"context": 1024}),
        (EngineOptions(), machine(), 0, {"bits": 8}),
        (EngineOptions(), machine(), 1024, {"bits": 8}),
        (EngineOptions(bits=8), machine(), 900, {"bits": 4}),
        (EngineOptions(bits=4), machine(), 900, None),
        (EngineOptions(bits=4, num_gpus=1), machine(GB, GB), 900, {"num_gpus": 2}),
        (EngineOptions(bits=4, num_gpus=2), machine(GB, GB), 900, None),
        (EngineOptions(bits=4, gpus=(1,)), machine(GB, GB), 900, {"gpus": (1, 0)}),
        (EngineOptions(device="mps"), machine(mps=True), 0, None),
        (ECHO, machine(), 0, None),
    ],
)
def test_the_next_smaller_way(now: EngineOptions, where: Hardware, context: int, then: dict[str, Any] | None) -> None:
    found = smaller(now, where, context)
    assert (found and {name: getattr(found, name) for name in then or {}}) == then


def test_a_ready_made_file_cannot_have_fewer_bits() -> None:
    assert smaller(EngineOptions(), machine(), 0, quantises=False) is None
    shorter = smaller(EngineOptions(), machine(), 4096, quantises=False)
    assert shorter is not None
    assert (shorter.context, shorter.bits) == (2048, 16)


def test_a_way_that_needs_a_missing_package_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*names: str) -> None:
        raise UsageError("engine.package_missing", missing=names[0], pip=names[0])

    monkeypatch.setattr(options_module, "require_packages", missing)
    assert smaller(EngineOptions(), machine(), 0) is None


@pytest.mark.parametrize(
    ("problem", "key", "wanted"),
    [
        (MemoryError(), "ops.out_of_memory", None),
        (MemoryError("std::bad_alloc"), "ops.out_of_memory", None),
        (OSError(12, "Cannot allocate memory"), "ops.out_of_memory", None),
        ("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 1.00 GiB free)", "starved.wanted", 2 << 30),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes."),
            "starved.wanted", 7,
        ),
        ("Unable to allocate 1.5 KiB for an array with shape (3,)", "starved.wanted", 1536),
        ("alloc_buffer: failed to allocate buffer of size 4096", "starved.wanted", 4096),
        ("Unable to allocate 2.00 TiB for an array", "starved.wanted", 2 << 40),
        ("failed to allocate 3 of 12 buffers", "ops.out_of_memory", None),
        (RuntimeError("shape mismatch"), "engine.computation_failed", None),
        ("", "engine.computation_failed", None),
    ],
)  # fmt: skip
def test_a_lack_of_memory_is_told_from_other_failures(problem: Exception | str, key: str, wanted: int | None) -> None:
    error = computation_failed(problem)
    assert (error.key, error.params.get("bytes")) == (key, wanted)
    assert memory_was_short(error) is (key != "engine.computation_failed")


def test_what_an_engine_does_not_say_itself_is_in_its_log() -> None:
    refused = EngineError("gguf.refused", file="x", what="check the input params")
    log = ["0.00.1 I fine", "0.00.2 E load: mmap failed: Cannot allocate memory", "0.00.3 E exiting"]
    assert memory.explained(refused, log).params == {"what": "load: mmap failed: Cannot allocate memory"}
    assert memory.explained(refused, log[::2]) is refused
    other = UsageError("engine.bits", bits=3)
    assert memory.explained(other, log) is other


@pytest.mark.parametrize(
    ("code", "log", "more_killed", "key"),
    [
        (-9, "", 1, "starved.killed"),
        (-9, "MemoryError", 0, "engine.killed"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'", 0, "starved.ended"),
        (1, "ggml: failed to allocate buffer of size 9", 1, "starved.ended"),
        (-11, "fine", 1, "engine.killed"),
        (1, "fine", 0, "engine.died"),
    ],
)
def test_why_a_process_ended(
    code: int, log: str, more_killed: int, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 5\noom_kill 3\n")
    monkeypatch.setattr(memory, "_COUNTERS", counters)
    error = memory.ended_by(code, log, killed_before=3 - more_killed)
    assert error.key == key
    assert error.params["log"] == log
    counters.unlink()
    assert memory.killed_processes() == 0


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (KILLED, True),
        (EngineError("engine.killed", signal="SIGSEGV", log=""), False),
        (MachineError("engine.no_room_ram", need=1, free=0, bits=16), True),
    ],
)
def test_which_ends_mean_too_little_memory(error: CriaError, short: bool) -> None:
    assert memory_was_short(error) is short


def test_a_crash_is_mended_once_and_the_second_says_why(engines: Make, echo_folder: Path) -> None:
    engine = engines(restart_delays_s=(0.01,))
    engine.load(echo_folder, ECHO)
    first = engine.wait_ready(READY_S).pid
    os.kill(first, signal.SIGKILL)
    refused = []

    def is_back(now: EngineStatus) -> bool:
        refused.extend([] if now.answers else [now])
        return now.state is EngineState.READY and now.pid != first

    status = _until(engine, is_back)
    assert not refused  # messages may come in all that time, and wait
    assert (status.restarts, status.restarted_after and status.restarted_after.key) == (1, "engine.killed")
    assert time.time() - status.restarted_at < READY_S
    assert text_of(ask(engine, "still here")).endswith("still here")
    os.kill(status.pid, signal.SIGKILL)
    failed = _until(engine, lambda now: now.state is EngineState.FAILED)
    assert failed.error is not None
    assert "SIGKILL" in str(failed.error)
    assert failed.restarts == 1


def test_unloading_ends_the_wait_for_a_restart(engines: Make, echo_folder: Path) -> None:
    engine = engines(restart_delays_s=(1000.0,))
    engine.load(echo_folder, ECHO)
    os.kill(engine.wait_ready(READY_S).pid, signal.SIGKILL)
    _until(engine, lambda now: now.state is EngineState.STARTING and now.restarts == 1)
    engine.unload()
    assert engine.status().state is EngineState.OFF
    threads = [one for one in threading.enumerate() if one.name.startswith("engine-")]
    for one in threads:
        one.join(READY_S)
    assert engine.status().state is EngineState.OFF


def _asleep(engines: Make, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """Return an engine that has fallen asleep."""
    monkeypatch.setattr(module, "MINUTE_S", 0.001)
    engine = engines()
    engine.load(folder, EngineOptions(engine="echo", idle_minutes=1))
    _until(engine, lambda now: now.state is EngineState.ASLEEP)
    return engine


def test_an_idle_engine_sleeps_and_the_next_message_wakes_it(
    engines: Make, echo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _asleep(engines, echo_folder, monkeypatch)
    status = engine.status()
    assert (status.model, status.pid, status.memory_bytes) == ("parrot", 0, 0)
    assert status.note is not None
    assert status.note.params["minutes"] == 1
    asking = threading.Thread(target=lambda: said.extend(ask(engine, "good morning")))
    said: list[Piece] = []
    asking.start()
    while asking.is_alive():
        assert engine.status().answers  # somebody else's message is taken, too
        asking.join(0.01)
    assert text_of(said).endswith("good morning")
    _until(engine, lambda now: now.state is EngineState.ASLEEP)
    engine.unload()
    assert engine.status().state is EngineState.OFF


def test_what_is_unloaded_while_it_wakes_up_stays_unloaded(
    engines: Make, echo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _asleep(engines, echo_folder, monkeypatch)
    looking, go = threading.Event(), threading.Event()
    ends: list[str] = []

    def slow() -> Hardware:
        looking.set()
        assert go.wait(READY_S)
        return machine()

    def somebody() -> None:
        with pytest.raises(EngineError) as caught:
            ask(engine, "good morning")
        ends.append(caught.value.key)

    monkeypatch.setattr(engine, "_probe", slow)
    asking = threading.Thread(target=somebody)
    asking.start()
    assert looking.wait(READY_S)
    engine.unload()
    go.set()
    asking.join(READY_S)
    assert ends == ["engine.not_ready"]
    assert engine.status().state is EngineState.OFF


def test_a_turn_that_is_over_changes_nothing() -> None:
    turns = Turns()
    first = turns.begin(EngineStatus(EngineState.STARTING, "a"))
    assert first is not None
    assert turns.begin(EngineStatus(EngineState.ASLEEP), after=first, provided=lambda: False) is None
    second = turns.begin(EngineStatus(EngineState.STARTING, "b"), after=first)
    assert turns.begin(EngineStatus(EngineState.ASLEEP), after=first) is None
    turns.set(first, EngineStatus(EngineState.READY, "a"))
    assert (turns.now()[0], turns.status().model, turns.is_on(first)) == (second, "b", False)


def test_nobody_is_idle_while_a_request_is_open() -> None:
    idle = Idle()
    with idle.interrupted(), idle.interrupted():
        assert idle.seconds() == 0
    assert idle.seconds() >= 0
