"""What was measured on this machine: how fast disk and memory are, and what loaded models really held.

One small file in the data folder, written anew as a whole. A damaged or foreign one counts as empty: everything in it
can be measured again. Knows nothing about how anything is measured.
"""

import contextlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from backend.fit.memory import Correction
from backend.storage import replace_file

FILE = "measured.json"
RAM, GPU, LLAMACPP = "ram", "gpu", "llamacpp"  # what a forecast was of: each is wrong in its own way
VERSION = 2  # of the arithmetic as well: what an older one was off by says nothing about this one
_MOST_LOADS, _MOST_BYTES = 200, 1 << 20
_RECENT = 9  # loads that a correction is the median of
_NOISE = 16_000_000  # bytes by which one load differs from the next: less than that teaches nothing
_LARGEST_CORRECTION = 1_500_000_000  # bytes; more than that is no overhead but a mistake


@dataclass(frozen=True)
class Speeds:
    """Bytes a second; None where it could not be measured. ``at`` is Unix time; ``busy``: others computed as well."""

    read: float | None = None
    write: float | None = None
    memory: float | None = None
    at: float = 0.0
    busy: bool = False


@dataclass(frozen=True)
class Load:
    """What one load was foretold to hold, and what it held, in bytes. ``kind`` is ``RAM``, ``GPU`` or ``LLAMACPP``.

    ``way`` names the options that matter; ``correction`` is what the forecast already had of earlier loads;
    ``tokens_per_s`` is how fast a reply was that had the engine to itself, 0 while there was none.
    """

    model: str
    way: str
    predicted: int
    measured: int
    kind: str = RAM
    correction: int = 0
    at: float = 0.0
    tokens_per_s: float = 0.0


@dataclass(frozen=True)
class Measured:
    """Everything that is remembered."""

    speeds: Speeds | None = None
    loads: tuple[Load, ...] = field(default=())

    def correction(self) -> Correction:
        """Return by how much forecasts without corrections have been off lately."""
        return Correction(*(_usual_error(self.loads, kind) for kind in (RAM, GPU, LLAMACPP)))

    def load(self, model: str, way: str) -> Load | None:
        """Return what this very load held when it was done last."""
        return next((one for one in reversed(self.loads) if (one.model, one.way) == (model, way)), None)


def _usual_error(loads: tuple[Load, ...], kind: str) -> int:
    errors = [one.measured - (one.predicted - one.correction) for one in loads if one.kind == kind][-_RECENT:]
    usual = median(errors) if errors else 0
    if abs(usual) < _NOISE:
        return 0
    return int(max(-_LARGEST_CORRECTION, min(_LARGEST_CORRECTION, usual)))


class Memo:
    """The file. Several threads may use it; of two processes that write at once, one's news are lost and no more."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE
        self._lock = threading.Lock()

    def read(self) -> Measured:
        """Return what is remembered."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            if self._path.stat().st_size <= _MOST_BYTES:
                return _measured(json.loads(self._path.read_text(encoding="utf-8")))
        return Measured()

    def keep_speeds(self, speeds: Speeds) -> None:
        """Remember speeds; a disk that refuses costs only the memory of them."""
        with self._lock:
            self._write(replace(self.read(), speeds=speeds))

    def keep_load(self, load: Load) -> None:
        """Remember a load, in place of an earlier one of the same model in the same way."""
        with self._lock:
            known = self.read()
            others = [one for one in known.loads if (one.model, one.way) != (load.model, load.way)]
            self._write(replace(known, loads=(*others, load)[-_MOST_LOADS:]))

    def _write(self, known: Measured) -> None:
        with contextlib.suppress(OSError):
            replace_file(self._path, json.dumps({"version": VERSION, **asdict(known)}, indent=1).encode())


def _measured(data: Mapping[str, Any]) -> Measured:
    speeds, loads = data.get("speeds"), data.get("loads", [])
    kept = loads if data.get("version") == VERSION else []
    return Measured(
        _speeds(speeds) if speeds else None,
        tuple(
            Load(
                str(one["model"]),
                str(one["way"]),
                int(one["predicted"]),
                int(one["measured"]),
                str(one["kind"]),
                int(one["correction"]),
                float(one["at"]),
                float(one.get("tokens_per_s", 0.0)),
            )
            for one in kept[-_MOST_LOADS:]
        ),
    )


def _speeds(data: Mapping[str, Any]) -> Speeds:
    read, write, memory = (_rate(data.get(name)) for name in ("read", "write", "memory"))
    return Speeds(read, write, memory, float(data["at"]), data.get("busy") is True)


def _rate(value: Any) -> float | None:
    """Return a speed that can be one: nothing is slower than a tape or faster than light."""
    return float(value) if isinstance(value, int | float) and 1e4 < value < 1e14 else None
