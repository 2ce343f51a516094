"""Unloading gives all memory of a GPU back, by the driver's own figures. Only where there is a GPU."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.engines.base import EngineOptions
from backend.engines.process import gpu_memory
from backend.engines.supervisor import Supervisor
from backend.hardware import probe
from tests.backend.engines.conftest import READY_S, ask

NOISE = 64 << 20  # bytes: what others on the machine may take or leave meanwhile
MACHINE = probe(Path("/"))


@pytest.mark.skipif(not MACHINE.gpus or MACHINE.torch_cuda == "cpu", reason="no GPU that torch can use")
def test_unloading_gives_the_gpus_memory_back(engines: Callable[..., Supervisor], tiny_folder: Path) -> None:
    import pynvml as nvml

    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)

    def used() -> int:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)

    before = used()
    engine = engines(probe=lambda: probe(Path("/")))
    for _ in range(2):
        engine.load(tiny_folder, EngineOptions(engine="transformers", device="cuda", gpus=(0,)))
        pid = engine.wait_ready(READY_S).pid
        ask(engine, "hello")
        end = time.monotonic() + READY_S
        while not engine.status().gpu_memory_bytes:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert used() - before > NOISE
        engine.unload()
        assert not any(held for _, held in gpu_memory((pid,)))
        assert used() - before < NOISE
    nvml.nvmlShutdown()
