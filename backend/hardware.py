"""What this machine is: RAM, disk, CPU, GPUs and who uses them, versions. Every fact that cannot be read stays None.

``probe`` never raises and never imports torch: the driver's own library (NVML) and the operating system are asked.
Knows nothing about models or about what would fit.
"""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from backend.ram import ram

PACKAGES = ("torch", "transformers", "accelerate", "bitsandbytes", "xllamacpp", "gradio", "huggingface_hub")


@dataclass(frozen=True)
class GpuProcess:
    """One process holding memory of a GPU, or RAM; ``name`` and ``user`` are None where the system does not tell."""

    pid: int
    bytes: int | None
    name: str | None
    user: str | None


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it. ``index`` is the driver's, which is what ``--gpus`` takes."""

    index: int
    name: str
    total_bytes: int | None
    free_bytes: int | None
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True)
class Hardware:
    """One look at the machine. ``gpu_problem`` says why no GPU could be asked, in the driver's own words."""

    cpu: str | None
    cores: int | None
    ram_total: int | None
    ram_free: int | None
    disk_path: Path
    disk_total: int | None
    disk_free: int | None
    gpus: tuple[Gpu, ...]
    gpu_problem: str | None
    mps: bool
    driver: str | None
    cuda_driver: str | None  # the newest CUDA the driver can run
    python: str
    system: str
    versions: Mapping[str, str | None]

    @property
    def torch_cuda(self) -> str | None:
        """The CUDA version torch was built for, ``cpu`` for a CPU build, None when the version string does not tell."""
        local = (self.versions.get("torch") or "").partition("+")[2]
        if local.startswith("cu") and local[2:].isdigit():
            return f"{local[2:-1]}.{local[-1]}"
        return local or None


def _cpu_name() -> str | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def disk_space(path: Path) -> tuple[int | None, int | None]:
    """Return (total, free) bytes of the disk where ``path`` is or will be; None, None when it cannot be asked."""
    for place in (path, *path.parents):
        if place.exists():
            with contextlib.suppress(OSError):
                usage = psutil.disk_usage(str(place))
                return usage.total, usage.free
            break
    return None, None


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _gpu_processes(nvml: Any, handle: Any) -> Iterator[GpuProcess]:
    with contextlib.suppress(nvml.NVMLError):
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            name = user = None
            with contextlib.suppress(psutil.Error):
                seen = psutil.Process(process.pid)
                name, user = seen.name(), seen.username()
            yield GpuProcess(process.pid, process.usedGpuMemory, name, user)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _one_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    total = free = None
    with contextlib.suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    return Gpu(index, _text(nvml.nvmlDeviceGetName(handle)), total, free, tuple(_gpu_processes(nvml, handle)))


@dataclass(frozen=True)
class _Driver:
    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None
    version: str | None = None
    cuda: str | None = None


def _ask_driver() -> _Driver:
    try:
        import pynvml as nvml
    except ImportError as problem:
        return _Driver(problem=str(problem))
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as problem:
        return _Driver(problem=str(problem))
    try:
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion())
        gpus = tuple(_one_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        return _Driver(gpus, None, _text(nvml.nvmlSystemGetDriverVersion()), f"{cuda // 1000}.{cuda % 1000 // 10}")
    except nvml.NVMLError as problem:
        return _Driver(problem=str(problem))
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def ram_holders(count: int = 3, *, except_pid: int = 0) -> tuple[GpuProcess, ...]:
    """Return the processes that hold the most RAM, the largest first; those one may not look at are left out."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid not in (except_pid, os.getpid()):
                found.append((process.memory_info().rss, process))
    found.sort(key=lambda pair: -pair[0])
    return tuple(_holder(process, held) for held, process in found[:count])


def _holder(process: psutil.Process, held: int) -> GpuProcess:
    name = user = None
    with contextlib.suppress(psutil.Error):
        name, user = process.name(), process.username()
    return GpuProcess(process.pid, held, name, user)


def anonymous(hardware: Hardware) -> Hardware:
    """Return the same machine without its people and paths: what a stranger on a shared server may know."""
    gpus = tuple(replace(gpu, processes=()) for gpu in hardware.gpus)
    return replace(hardware, gpus=gpus, disk_path=Path(hardware.disk_path.name))


def probe(disk_path: Path) -> Hardware:
    """Look at the machine now; ``disk_path`` is where models will go (it need not exist yet). Takes milliseconds."""
    memory = ram()
    disk_total, disk_free = disk_space(disk_path)
    driver = _ask_driver()
    return Hardware(
        cpu=_cpu_name(),
        cores=os.cpu_count(),
        ram_total=memory.total,
        ram_free=memory.free,
        disk_path=disk_path,
        disk_total=disk_total,
        disk_free=disk_free,
        gpus=driver.gpus,
        gpu_problem=driver.problem,
        mps=platform.system() == "Darwin" and platform.machine() == "arm64",
        driver=driver.version,
        cuda_driver=driver.cuda,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        versions=_versions(),
    )
