"""Follows one engine process from its start: reads what it says of itself, and notices its death and its silence.

Knows nothing about why it was started, or what follows when it ends.
"""

import json
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from backend.engines import EngineKind
from backend.engines.base import EngineOptions, EngineState, EngineStatus
from backend.engines.process import EngineProcess, gpu_memory
from backend.engines.pulse import Pulse
from backend.errors import error_from_json
from backend.hardware import Hardware
from backend.text import Message

ANSWER_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Plan:
    """One load: what to start, on which GPUs (None: whatever it sees), and whose turn it is."""

    turn: int
    folder: Path
    options: EngineOptions
    kind: EngineKind
    gpus: tuple[int, ...] | None
    machine: Hardware
    remark: Message | None = None  # worth saying of a loaded engine that has nothing to say itself
    returning: bool = False  # it slept before


class Watcher:
    """Looks at one process again and again. A context manager: it holds a connection."""

    def __init__(self, plan: Plan, process: EngineProcess, patience: tuple[float, float]) -> None:
        self._plan, self._process, self._pulse = plan, process, Pulse(*patience)
        self.ready = False  # it has been ready once
        self._total_bytes = 0
        self._client = httpx.Client(
            base_url=process.endpoint.url,
            headers=process.endpoint.headers,
            timeout=ANSWER_TIMEOUT_S,
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )

    def __enter__(self) -> "Watcher":
        """Begin."""
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """Let go of the connection; the process is somebody else's to end."""
        self._client.close()

    def look(self) -> EngineStatus | None:
        """Return how the process is; None when it did not answer this time.

        Raises:
            CriaError: it has died, was given up, or says that it cannot go on.
        """
        death = self._process.death()
        if death is not None:
            raise death
        status = None
        with suppress(httpx.HTTPError, ValueError):
            status = self._read()
        fault = self._pulse.fault()
        if fault is not None:
            self._process.give_up(*fault)
        return status

    def _read(self) -> EngineStatus:
        plan, process = self._plan, self._process
        health = _json(self._client.get("/health"))
        if health.get("error"):
            raise error_from_json(health["error"])
        state = EngineState(health["state"])
        self.ready = self.ready or state is EngineState.READY
        figures = _json(self._client.get("/stats")) if state is EngineState.READY else {}
        self._pulse.take(active=int(figures.get("active", 0)), steps=int(figures.get("steps", 0)))
        self._total_bytes = int(health["total_bytes"]) or self._total_bytes
        return EngineStatus(
            state,
            str(health.get("model") or plan.folder.name),
            plan.options,
            loaded_bytes=int(health["loaded_bytes"]),
            total_bytes=self._total_bytes,
            context=int(health["context"]),
            placement=_message(health["placement"]),
            note=_message(health["note"]) or (plan.remark if state is EngineState.READY else None),
            active=int(figures.get("active", 0)),
            waiting=int(figures.get("waiting", 0)),
            tokens_per_s=float(figures.get("tokens_per_s", 0.0)),
            memory_bytes=process.memory(),
            gpu_memory_bytes=gpu_memory(process.pids()) if plan.machine.gpus else 0,
            pid=process.pid,
            slots=int(figures.get("slots", 0)),
            computed_tokens=int(figures.get("computed_tokens", 0)),
            cache_used=int(figures.get("cache_used", 0)),
            cache_total=int(figures.get("cache_total", 0)),
            returning=plan.returning,
        )


def _json(response: httpx.Response) -> dict[str, Any]:
    if response.status_code != httpx.codes.OK:
        raise ValueError(f"status {response.status_code}")
    data: dict[str, Any] = json.loads(response.content)
    return data


def _message(data: Any) -> Message | None:
    return Message.from_json(data) if data else None
