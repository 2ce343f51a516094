"""The supervisor with real child processes: states, replacing, dying, hanging, ending."""

import asyncio
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from backend.engines import ENGINES, EngineKind
from backend.engines import supervisor as module
from backend.engines.base import ChatMessage, EngineOptions, EngineState, Finish, Sampling
from backend.engines.process import EngineProcess, child_environment
from backend.engines.serve import arguments
from backend.engines.supervisor import Supervisor
from backend.errors import EngineError, UsageError, WeightsError
from backend.settings import ROOT
from tests.backend.engines.conftest import READY_S, answer, ask, text_of

ECHO = EngineOptions(engine="echo")
Make = Callable[..., Supervisor]
SLOW = Sampling(max_new_tokens=4000)
LONG = "word " * 1000


def _gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not psutil.pid_exists(pid)


def _until(engine: Supervisor, state: EngineState, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while engine.status().state is not state and time.monotonic() < end:
        time.sleep(0.01)
    return engine.status().state is state


def test_from_off_to_ready_to_off(engines: Make, echo_folder: Path) -> None:
    (echo_folder / "cria.json").write_text('{"echo": {"words_per_s": 200, "load_s": 0.6}}')
    engine = engines()
    assert engine.status().state is EngineState.OFF
    engine.load(echo_folder, ECHO)
    seen = []
    while (status := engine.status()).state is not EngineState.READY:
        seen.append((status.state, status.loaded_bytes))
        time.sleep(0.01)
    assert seen[0][0] is EngineState.STARTING
    progress = [loaded for state, loaded in seen if state is EngineState.LOADING]
    assert progress == sorted(progress)
    assert len(set(progress)) > 2
    status = engine.wait_ready(READY_S)
    assert (status.model, status.context, status.options) == ("parrot", 4096, ECHO)
    assert status.memory_bytes > 1_000_000
    assert status.placement is not None
    assert text_of(ask(engine, "hello")).endswith("hello")
    engine.unload()
    assert engine.status().state is EngineState.OFF
    assert _gone(status.pid)


def test_nothing_loaded(engines: Make) -> None:
    engine = engines()
    engine.unload()
    with pytest.raises(EngineError, match="No model is loaded"):
        ask(engine, "hi")
    with pytest.raises(EngineError, match="No model is loaded"):
        engine.wait_ready(1)


def test_what_cannot_work_leaves_the_loaded_model_alone(echo: Supervisor, tmp_path: Path) -> None:
    pid = echo.status().pid
    with pytest.raises(UsageError):
        echo.load(tmp_path, EngineOptions(engine="echo", bits=8))
    with pytest.raises(UsageError):
        echo.load(tmp_path, EngineOptions(num_gpus=3))
    with pytest.raises(WeightsError):
        echo.load(tmp_path / "nowhere", ECHO)
    with pytest.raises(WeightsError):
        echo.load(tmp_path, EngineOptions())
    assert echo.status().pid == pid
    assert text_of(ask(echo, "still here")).endswith("still here")


def test_loading_a_second_replaces_the_first(echo: Supervisor, tmp_path: Path) -> None:
    first = echo.status().pid
    (tmp_path / "second").mkdir()
    echo.load(tmp_path / "second", ECHO)
    status = echo.wait_ready(READY_S)
    assert status.model == "second"
    assert _gone(first)


def test_many_loads_at_once_end_with_one_process(engines: Make, echo_folder: Path) -> None:
    engine = engines()
    before = len(psutil.Process().children())
    threads = [threading.Thread(target=engine.load, args=(echo_folder, ECHO)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = engine.wait_ready(READY_S)
    time.sleep(0.2)
    assert engine.status().pid == status.pid
    assert len(psutil.Process().children()) == before + 1


def test_usable_from_several_event_loops_and_threads(echo: Supervisor) -> None:
    texts: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: texts.__setitem__(n, text_of(ask(echo, f"number {n}")))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(texts[n].endswith(f"number {n}") for n in range(4))


def test_killed_in_mid_reply(echo: Supervisor) -> None:
    got = []

    async def run() -> None:
        async for piece in echo.chat([ChatMessage("user", LONG)], SLOW):
            got.append(piece.text)
            if piece.tokens == 5:
                os.kill(echo.status().pid, signal.SIGKILL)

    with pytest.raises(EngineError) as caught:
        asyncio.run(run())
    assert caught.value.key == "engine.killed"
    assert caught.value.params == {"signal": "SIGKILL", "log": ""}
    assert "".join(got).startswith("I am the echo engine:")
    assert _until(echo, EngineState.FAILED)
    error = echo.status().error
    assert error is not None
    assert "SIGKILL" in str(error)
    with pytest.raises(EngineError):
        echo.wait_ready(1)


def test_after_a_failure_it_can_be_loaded_again(echo: Supervisor, echo_folder: Path) -> None:
    os.kill(echo.status().pid, signal.SIGKILL)
    assert _until(echo, EngineState.FAILED)
    echo.load(echo_folder, ECHO)
    assert echo.wait_ready(READY_S).error is None
    assert text_of(ask(echo, "back")).endswith("back")


def test_loading_and_unloading_in_mid_reply_say_so(echo: Supervisor, echo_folder: Path) -> None:
    async def run(act: Callable[[], None]) -> None:
        async for piece in echo.chat([ChatMessage("user", LONG)], SLOW):
            if piece.tokens == 3:
                threading.Thread(target=act).start()

    with pytest.raises(EngineError, match="unloaded"):
        asyncio.run(run(lambda: echo.load(echo_folder, ECHO)))
    echo.wait_ready(READY_S)
    with pytest.raises(EngineError, match="unloaded"):
        asyncio.run(run(echo.unload))
    assert _until(echo, EngineState.OFF)


def test_an_engine_that_answers_but_computes_nothing_is_ended(engines: Make, echo_folder: Path) -> None:
    (echo_folder / "cria.json").write_text('{"echo": {"words_per_s": 200, "stall_after": 3}}')
    engine = engines(stalled_after_s=1.5)
    engine.load(echo_folder, ECHO)
    pid = engine.wait_ready(READY_S).pid
    time.sleep(2)
    assert engine.status().state is EngineState.READY  # nobody waits: standing still is all right
    with pytest.raises(EngineError) as caught:
        ask(engine, LONG, SLOW)
    assert caught.value.key == "engine.stalled"
    assert _until(engine, EngineState.FAILED)
    assert engine.status().error is not None
    assert engine.status().error.key == "engine.stalled"  # type: ignore[union-attr]
    assert _gone(pid)


def test_a_process_that_ends_by_itself(tmp_path: Path) -> None:
    process = EngineProcess(
        "backend.engines.echo", arguments(tmp_path, ECHO), model="m", gpus=None, logs=tmp_path / "logs"
    )
    assert process.death() is None
    assert process._child.stdin is not None
    process._child.stdin.close()
    process._child.wait(10)
    death = process.death()
    assert death is not None
    assert (death.key, death.params) == ("engine.died", {"code": 0, "log": ""})
    process.end()


def test_a_process_that_does_not_start(engines: Make, echo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_engine", lambda _: EngineKind("backend.engines.no_such_module", computes=False))
    engine = engines()
    engine.load(echo_folder, ECHO)
    with pytest.raises(EngineError, match="no_such_module"):
        engine.wait_ready(READY_S)


def test_each_engine_has_a_log_of_its_own(echo: Supervisor, engines: Make, echo_folder: Path, tmp_path: Path) -> None:
    other = engines()
    other.load(echo_folder, ECHO)
    pids = {other.wait_ready(READY_S).pid, echo.status().pid}
    logs = list((tmp_path / "logs").iterdir())
    assert {int(log.stem.rpartition("-")[2]) for log in logs} == pids
    assert len(logs) == 2


def test_live_figures(echo: Supervisor) -> None:
    async def run() -> tuple[int, float]:
        task = asyncio.create_task(answer(echo, LONG, Sampling(max_new_tokens=300)))
        await asyncio.sleep(1.2)
        status = echo.status()
        await task
        return status.active, status.tokens_per_s

    active, speed = asyncio.run(run())
    assert active == 1
    assert speed > 1


def test_closing_is_for_good(echo: Supervisor, echo_folder: Path) -> None:
    pid = echo.status().pid
    echo.close()
    assert _gone(pid)
    with pytest.raises(EngineError):
        echo.load(echo_folder, ECHO)
    echo.close()


def test_the_child_ends_when_the_parent_is_killed(echo_folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from backend.engines.supervisor import Supervisor\n"
        "from backend.engines.base import EngineOptions\n"
        "engine = Supervisor(Path(sys.argv[2])); engine.load(Path(sys.argv[1]), EngineOptions(engine='echo'))\n"
        "print(engine.wait_ready(100).pid, flush=True); time.sleep(100)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(echo_folder), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.kill()
    assert _gone(child)


def test_the_child_gets_no_proxy_no_token_and_no_hub() -> None:
    own = {"PATH": "/bin", "HTTPS_PROXY": "x", "no_proxy": "y", "HF_TOKEN": "secret", "OMP_WAIT_POLICY": "ACTIVE"}
    child = child_environment(own, (1, 0))
    assert not {name.lower() for name in child} & {"https_proxy", "no_proxy", "hf_token"}
    assert child["CUDA_VISIBLE_DEVICES"] == "1,0"
    assert (child["HF_HUB_OFFLINE"], child["TRANSFORMERS_OFFLINE"], child["PATH"]) == ("1", "1", "/bin")
    assert child["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "CUDA_VISIBLE_DEVICES" not in child_environment(own, None)
    assert child_environment({}, ())["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked for large pages")
def test_the_child_asks_for_large_pages() -> None:
    """Seen in what Linux says about the place that malloc gave."""
    program = (
        "import ctypes, pathlib\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p; at = libc.malloc(ctypes.c_size_t(64 << 20))\n"
        "for line in pathlib.Path('/proc/self/smaps').read_text().splitlines():\n"
        "    if not line.split()[0].endswith(':'):\n"
        "        begin, end = (int(half, 16) for half in line.split()[0].split('-'))\n"
        "    elif line.startswith('VmFlags:') and begin <= at < end:\n"
        "        print('hg' in line.split())\n"
    )
    for own, asked in ({}, "True"), ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "False"):
        child = child_environment(own, None)
        assert subprocess.check_output([sys.executable, "-c", program], env=child, text=True).strip() == asked


def test_the_supervisor_never_imports_torch() -> None:
    program = "import sys, backend.engines.supervisor; print({'torch', 'transformers', 'gradio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert set(ENGINES) >= {"transformers", "echo"}


def test_a_finished_reply_has_its_usage(echo: Supervisor) -> None:
    last = ask(echo, "one two three")[-1]
    assert last.finish is Finish.STOP
    assert last.usage is not None
    assert last.usage.prompt_tokens == 3
    assert last.usage.completion_tokens == last.tokens
    assert last.usage.decode_s > 0
