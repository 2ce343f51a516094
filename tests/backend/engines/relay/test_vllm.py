"""vLLM's place: how it is called, and a stand-in for it that is started, asked, watched and ended."""

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from backend import engines as table
from backend.engines.base import EngineOptions, EngineState, Lora, Sampling
from backend.engines.client import Endpoint
from backend.engines.options import check_options
from backend.engines.relay.vllm import Life, wait_until_healthy
from backend.engines.relay.vllm_command import command, environment, lora_words, memory_share
from backend.engines.supervisor import Supervisor
from backend.errors import EngineError, UsageError
from tests.backend.engines.conftest import READY_S, ask, machine, text_of
from tests.backend.engines.loras import write_adapter
from tests.backend.engines.relay import fake_vllm_path

MODEL = Path("/models/my-model")


@pytest.mark.parametrize(
    ("options", "has"),
    [
        (EngineOptions(), "--tensor-parallel-size 1"),
        (EngineOptions(num_gpus=4), "--tensor-parallel-size 4"),
        (EngineOptions(gpus=(1, 3)), "--tensor-parallel-size 2"),
        (EngineOptions(bits=8), "--quantization fp8"),
        (EngineOptions(bits=4), "--quantization bitsandbytes"),
        (EngineOptions(dtype="float16", context=2048), "--dtype float16 --max-model-len 2048"),
    ],
)
def test_its_command_line(options: EngineOptions, has: str) -> None:
    words = " ".join(command("vllm", MODEL, options, port=1234))
    assert words.startswith(f"vllm serve {MODEL} --host 127.0.0.1 --port 1234 --served-model-name my-model ")
    assert has in words


def test_its_environment_has_the_key_and_its_memory_is_a_share() -> None:
    assert environment({"PATH": "/bin"}, "k").items() >= {"PATH": "/bin", "VLLM_API_KEY": "k"}.items()
    assert memory_share(8, 16) == ["--gpu-memory-utilization", "0.50"]
    assert memory_share(0, 16) == memory_share(8, 0) == []


@pytest.mark.parametrize(("rank", "most"), [(1, 8), (8, 8), (9, 16), (256, 256), (500, 512), (600, 600)])
def test_its_words_for_loras(rank: int, most: int) -> None:
    assert lora_words(MODEL, (), 0) == []
    words = lora_words(MODEL, (Lora("/x/a=b"), Lora("/x/bob", 0.0)), rank)
    assert words[:5] == ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(most)]
    assert words[5:7] == ["--lora-modules", '{"name": "my-model:a=b", "path": "/x/a=b"}']


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called vllm on the path."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake_vllm_path()}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_without_it_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table.shutil, "which", lambda *_, **__: None)
    with pytest.raises(UsageError, match="pip install vllm"):
        check_options(EngineOptions(engine="vllm"), machine(1))
    assert not table.is_installed(table.ENGINES["vllm"])


@pytest.mark.usefixtures("installed")
def test_what_it_cannot_do_is_said() -> None:
    check_options(EngineOptions(engine="vllm", bits=8, num_gpus=2), machine(1, 1))
    with pytest.raises(UsageError):
        check_options(EngineOptions(engine="vllm", device="cpu"), machine(1))
    check_options(EngineOptions(engine="vllm", loras=(Lora("/x/a"), Lora("/x/b", 0.0))), machine(1))
    for loras in ((Lora("/x/a"), Lora("/x/b")), (Lora("/x/a", 0.5),)):
        with pytest.raises(UsageError) as caught:
            check_options(EngineOptions(engine="vllm", loras=loras), machine(1))
        assert caught.value.key == "attach.alone"


def test_one_that_never_gets_ready_or_falls_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(EngineError) as caught:
        wait_until_healthy(endpoint, lambda: None, 0.1)
    assert (caught.value.key, caught.value.params) == ("hard.vllm_late", {"seconds": 0.1})
    with pytest.raises(EngineError, match="code 7"):
        wait_until_healthy(endpoint, lambda: EngineError("engine.died", code=7, log=""), 100)
    life = Life(endpoint, lambda: None, 0.2)
    assert life.fault() is None
    life.follow(0.01)  # it comes back when there is a fault
    fault = life.fault()
    assert fault is not None
    assert fault.key == "hard.vllm_silent"


def _gone(pids: list[int]) -> bool:
    end = time.monotonic() + READY_S
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.usefixtures("installed")
def test_it_is_started_asked_restarted_and_ended_with_all_its_family(
    engines: Callable[..., Supervisor], tiny_folder: Path, tmp_path: Path
) -> None:
    engine = engines(restart_delays_s=(0.01,))
    loras = (Lora(str(write_adapter(tmp_path / "ada"))), Lora(str(write_adapter(tmp_path / "bob", rank=12)), 0.0))
    engine.load(tiny_folder, EngineOptions(engine="vllm", context=512, loras=loras))
    status = engine.wait_ready(READY_S)
    assert (status.model, status.context) == ("tiny", 512)
    family = psutil.Process(status.pid).children(recursive=True)
    assert any("serve" in one.cmdline() for one in family)
    key = next(one.environ()["VLLM_API_KEY"] for one in family)
    assert not any(key in " ".join(one.cmdline()) for one in family)
    pieces = ask(engine, "hello")
    assert text_of(pieces) == "quantization=None gpus=1 hello"
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.prompt_tokens == 5
    for wanted, name in ((None, "tiny:ada"), ((), "tiny"), ((("bob", 1.0),), "tiny:bob")):
        assert text_of(ask(engine, "who", Sampling(loras=wanted))).endswith(f" {name} 16")
    with pytest.raises(UsageError, match=r"bob=0\.5"):
        ask(engine, "who", Sampling(loras=(("bob", 0.5),)))
    assert text_of(ask(engine, "strict")).endswith("strict")
    with pytest.raises(EngineError) as caught:
        ask(engine, "die")
    assert caught.value.params.get("code") == 7
    end = time.monotonic() + READY_S
    while (again := engine.status()).state is not EngineState.READY or not again.restarts:
        assert time.monotonic() < end, again
        time.sleep(0.02)
    assert text_of(ask(engine, "back")).endswith("back")
    pids = [again.pid, *(one.pid for one in psutil.Process(again.pid).children(recursive=True))]
    engine.unload()
    assert _gone([*pids, *(one.pid for one in family)])
