"""The hardware probe: facts where the system tells, None where it does not, and never an exception."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from backend import ram
from backend.hardware import Gpu, probe


class NVMLError(Exception):
    """Stands for the driver library's own error."""


def driver(*, gpus: int = 2, fail: str = "") -> SimpleNamespace:
    """A stand-in for pynvml with imaginary cards; ``fail`` names the one call that refuses."""

    def call(name: str, value: object) -> object:
        def answer(*_: object) -> object:
            if name == fail:
                raise NVMLError(f"{name} refused")
            return value

        return answer

    process = SimpleNamespace(pid=os.getpid(), usedGpuMemory=3_000_000_000)
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=call("init", None),
        nvmlShutdown=call("shutdown", None),
        nvmlSystemGetCudaDriverVersion=call("cuda", 12080),
        nvmlSystemGetDriverVersion=call("driver", "570.1"),
        nvmlDeviceGetCount=call("count", gpus),
        nvmlDeviceGetHandleByIndex=call("handle", object()),
        nvmlDeviceGetName=call("name", b"Imaginary 24G"),
        nvmlDeviceGetMemoryInfo=call("memory", SimpleNamespace(total=24_000_000_000, free=20_000_000_000)),
        nvmlDeviceGetComputeRunningProcesses=call("processes", [process]),
    )


def test_this_machine_has_memory_disk_and_a_cpu(tmp_path: Path) -> None:
    found = probe(tmp_path / "not" / "there" / "yet")
    assert found.ram_total
    assert found.ram_free
    assert found.ram_free <= found.ram_total
    assert found.disk_free
    assert found.cores
    assert found.versions["torch"]


def test_gpus_with_who_uses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    found = probe(tmp_path)
    assert [gpu.index for gpu in found.gpus] == [0, 1]
    gpu = found.gpus[0]
    assert (gpu.name, gpu.total_bytes, gpu.free_bytes) == ("Imaginary 24G", 24_000_000_000, 20_000_000_000)
    assert gpu.processes[0].bytes == 3_000_000_000
    assert gpu.processes[0].name == psutil.Process().name()
    assert (found.driver, found.cuda_driver, found.gpu_problem) == ("570.1", "12.8", None)


@pytest.mark.parametrize("fail", ["init", "cuda", "count", "handle", "name"])
def test_a_driver_that_refuses_is_quoted_and_nothing_is_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(fail=fail))
    found = probe(tmp_path)
    assert found.gpus == ()
    assert found.gpu_problem is not None
    assert fail in found.gpu_problem


@pytest.mark.parametrize("fail", ["memory", "processes"])
def test_a_fact_that_is_withheld_is_none_and_the_rest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(fail=fail))
    gpu = probe(tmp_path).gpus[0]
    assert gpu.name == "Imaginary 24G"
    assert (gpu.free_bytes is None) is (fail == "memory")
    assert (gpu.processes == ()) is (fail == "processes")


def test_no_driver_library_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert probe(tmp_path).gpu_problem


def test_a_process_that_is_gone_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = driver()
    fake.nvmlDeviceGetComputeRunningProcesses = lambda _: [SimpleNamespace(pid=2**30, usedGpuMemory=None)]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    process = probe(tmp_path).gpus[0].processes[0]
    assert (process.name, process.user, process.bytes) == (None, None, None)


def test_a_container_limit_counts_as_the_memory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ram, "limits", lambda: iter([(1_000_000_000, 0)]))
    found = probe(tmp_path)
    assert found.ram_total == 1_000_000_000
    assert found.ram_free is not None
    assert found.ram_free <= 1_000_000_000


@pytest.mark.parametrize(
    ("version", "cuda"), [("2.13.0+cu130", "13.0"), ("2.13.0+cpu", "cpu"), ("2.13.0", None), (None, None)]
)
def test_what_torch_was_built_for(tmp_path: Path, version: str | None, cuda: str | None) -> None:
    assert replace(probe(tmp_path), versions={"torch": version}).torch_cuda == cuda


def test_gpus_are_plain_values() -> None:
    assert Gpu(0, "x", 1, 1) == Gpu(0, "x", 1, 1)
