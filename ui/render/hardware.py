"""The machine as a card: memory, GPUs and who uses them, disk, CPU, versions. Knows nothing about how it was asked.

What could not be read is said to be unknown; that there is no GPU is said plainly, with what that means.
"""

from backend.hardware import Gpu, Hardware
from backend.text import say
from backend.units import bytes_text
from ui.render.markup import esc, facts, known, meter, remark


def _free_of(free: int | None, total: int | None, language: str) -> str:
    if free is None and total is None:
        return say(language, "setup.unknown")
    return say(language, "setup.hardware.free_of", free=free, total=total)


def _used(free: int | None, total: int | None) -> int | None:
    return None if free is None or total is None else total - free


def _tile(label: str, value: str, below: str, gauge: str = "") -> str:
    return (
        f'<div class="hw-tile"><h3>{esc(label)}</h3><p class="hw-value">{esc(value)}</p>{gauge}'
        f'<p class="hw-below">{esc(below)}</p></div>'
    )


def _user(process_bytes: int | None, name: str | None, user: str | None, pid: int, language: str) -> str:
    return say(
        language,
        "setup.hardware.process",
        name=known(name, language),
        user=known(user, language),
        pid=pid,
        bytes=bytes_text(process_bytes) if process_bytes is not None else say(language, "setup.unknown"),
    )


def _gpu(gpu: Gpu, language: str) -> str:
    label = say(language, "setup.hardware.gpu", index=gpu.index)
    gauge = meter(label, _used(gpu.free_bytes, gpu.total_bytes), gpu.total_bytes)
    users = [_user(p.bytes, p.name, p.user, p.pid, language) for p in gpu.processes]
    below = (
        "".join(f"<li>{esc(user)}</li>" for user in users) or f"<li>{esc(say(language, 'setup.hardware.unused'))}</li>"
    )
    return (
        f'<div class="hw-tile"><h3>{esc(label)}: {esc(gpu.name)}</h3>'
        f'<p class="hw-value">{esc(_free_of(gpu.free_bytes, gpu.total_bytes, language))}</p>{gauge}'
        f'<ul class="hw-users">{below}</ul></div>'
    )


def _gpus(hardware: Hardware, language: str) -> str:
    if hardware.gpus:
        return "".join(_gpu(gpu, language) for gpu in hardware.gpus)
    label = say(language, "setup.hardware.gpus")
    if hardware.mps:
        return _tile(label, say(language, "setup.hardware.mps"), say(language, "setup.hardware.mps_means"))
    return _tile(label, say(language, "setup.hardware.no_gpu"), say(language, "setup.hardware.no_gpu_means"))


def _driver(hardware: Hardware, language: str) -> str:
    """Return the driver's version, or its own words for why it cannot be asked."""
    if hardware.driver or not hardware.gpu_problem:
        return known(hardware.driver, language)
    return say(language, "setup.hardware.driver_says", what=hardware.gpu_problem)


def _versions(hardware: Hardware, language: str) -> str:
    absent = say(language, "setup.hardware.not_installed")
    build = hardware.torch_cuda
    torch = hardware.versions.get("torch")
    built_for = known("CPU" if build == "cpu" else f"CUDA {build}" if build else None, language)
    rows = {
        "torch": say(language, "setup.hardware.built_for", version=torch, what=built_for) if torch else absent,
        say(language, "setup.hardware.driver"): _driver(hardware, language),
        say(language, "setup.hardware.cuda_driver"): known(hardware.cuda_driver, language),
        **{name: version or absent for name, version in hardware.versions.items() if name != "torch"},
        "Python": hardware.python,
        say(language, "setup.hardware.system"): hardware.system,
    }
    return f"<details><summary>{esc(say(language, 'setup.hardware.versions'))}</summary>{facts(rows)}</details>"


def _mismatch(hardware: Hardware, language: str) -> str:
    """Say so when there is a GPU that this torch cannot use: the commonest reason for a slow model."""
    if not hardware.gpus or hardware.torch_cuda != "cpu":
        return ""
    return remark(
        say(language, "setup.hardware.cpu_torch.say"), say(language, "setup.hardware.cpu_torch.hint"), kind="warn"
    )


def hardware_card(hardware: Hardware, language: str) -> str:
    """Return the machine as HTML."""
    ram, disk = say(language, "setup.hardware.ram"), say(language, "setup.hardware.disk")
    cores = hardware.cores
    tiles = [
        _tile(
            ram,
            _free_of(hardware.ram_free, hardware.ram_total, language),
            say(language, "setup.hardware.ram_means"),
            meter(ram, _used(hardware.ram_free, hardware.ram_total), hardware.ram_total),
        ),
        _gpus(hardware, language),
        _tile(
            disk,
            _free_of(hardware.disk_free, hardware.disk_total, language),
            say(language, "setup.hardware.disk_means", folder=str(hardware.disk_path)),
            meter(disk, _used(hardware.disk_free, hardware.disk_total), hardware.disk_total),
        ),
        _tile(
            say(language, "setup.hardware.cpu"),
            say(language, "setup.hardware.cores", cores=cores) if cores else say(language, "setup.unknown"),
            known(hardware.cpu, language),
        ),
    ]
    return f'<div class="hw">{"".join(tiles)}</div>{_mismatch(hardware, language)}{_versions(hardware, language)}'
