"""The engines there are: a literal table from name to the module to run and the packages it needs.

Knows nothing about how an engine works; a new one is a row here and a module that speaks the protocol.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from backend.errors import UsageError


@dataclass(frozen=True)
class EngineKind:
    """One engine: ``module`` is started with ``python -m``; ``computes``: it has weights and needs a device."""

    module: str
    packages: tuple[str, ...] = ()
    computes: bool = True


ENGINES: Mapping[str, EngineKind] = {
    "transformers": EngineKind("backend.engines.transformers_server", ("torch", "transformers", "accelerate")),
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


def find_engine(name: str) -> EngineKind:
    """Return the engine of that name.

    Raises:
        UsageError: no such engine (the known ones are listed), or a package it needs is not installed.
    """
    if name not in ENGINES:
        raise UsageError("engine.unknown", name=name[:80], known=", ".join(ENGINES))
    require_packages(*ENGINES[name].packages)
    return ENGINES[name]
