"""The engines there are: a literal table from name to the module to run and the packages it needs.

Knows nothing about how an engine works; a new one is a row here and a module that speaks the protocol.
"""

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.errors import UsageError


@dataclass(frozen=True)
class EngineKind:
    """One engine: ``module`` is started with ``python -m``; ``computes``: it has weights and needs a device.

    ``is_remote``: the model is elsewhere, there is no folder; ``has_family``: it starts processes of its own.
    """

    module: str
    packages: tuple[str, ...] = ()
    computes: bool = True
    is_remote: bool = False
    has_family: bool = False
    quantisers: tuple[str, ...] = ()  # packages that 8-bit and 4-bit need
    programs: tuple[str, ...] = ()  # that must be installed, here or in an environment of their own
    cpu_only: bool = False
    attaches: bool = False  # it computes with LoRAs that are not merged
    mixes: bool = True  # those at any strength, several at once; if not: one, as it was trained
    opens_gguf: bool = False  # it loads a ready-made GGUF file


AUTO = "auto"  # no engine: ``choice`` picks one for the machine and the model
USUAL = "transformers"
ENGINES: Mapping[str, EngineKind] = {
    "transformers": EngineKind(
        "backend.engines.transformers_server",
        ("torch", "transformers", "accelerate"),
        quantisers=("bitsandbytes",),
        attaches=True,
    ),
    "llamacpp": EngineKind(
        "backend.engines.llamacpp_server",
        ("xllamacpp", "gguf", "transformers"),
        cpu_only=True,
        attaches=True,
        opens_gguf=True,
    ),
    "vllm": EngineKind("backend.engines.relay.vllm", has_family=True, programs=("vllm",), attaches=True, mixes=False),
    "remote": EngineKind("backend.engines.relay.remote", computes=False, is_remote=True),
    "echo": EngineKind("backend.engines.echo", computes=False),
}


def require_packages(*packages: str) -> None:
    """Make sure that packages are installed, without importing them.

    Raises:
        UsageError: one is missing; the message names the pip line.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError("engine.package_missing", missing=", ".join(missing), pip=" ".join(missing))


def find_program(name: str) -> str:
    """Return the path of a program: beside this Python, or where the shell finds it.

    Raises:
        UsageError: it is not installed; the message says how to.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=beside) or shutil.which(name)
    if found is None:
        raise UsageError("remote.no_program", program=name)
    return found


def is_installed(kind: EngineKind) -> bool:
    """Tell whether everything that an engine needs is on this machine."""
    has_packages = all(importlib.util.find_spec(name) is not None for name in kind.packages)
    beside = str(Path(sys.executable).parent)
    return has_packages and all(shutil.which(name, path=beside) or shutil.which(name) for name in kind.programs)


def is_elsewhere(name: str) -> bool:
    """Tell whether an engine's models are on another server, and have no folder here."""
    return name in ENGINES and ENGINES[name].is_remote


def find_engine(name: str) -> EngineKind:
    """Return the engine of that name.

    Raises:
        UsageError: no such engine (the known ones are listed), or a package it needs is not installed.
    """
    if name not in ENGINES:
        raise UsageError("engine.unknown", name=name[:80], known=", ".join(ENGINES))
    require_packages(*ENGINES[name].packages)
    for program in ENGINES[name].programs:
        find_program(program)
    return ENGINES[name]
