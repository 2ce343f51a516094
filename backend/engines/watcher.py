"""Follows one engine process from its start: reads what it says of itself, and notices its death and its silence.

Knows nothing about why it was started, or what follows when it ends.
"""

import json
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from backend.engines import EngineKind
from backend.engines.base import EngineOptions, EngineState, EngineStatus
from backend.engines.log import LAST_LINES
from backend.engines.memory import explained
from backend.engines.process import EngineProcess, gpu_memory
from backend.engines.pulse import Pulse
from backend.errors import error_from_json
from backend.hardware import Hardware
from backend.text import Message

ANSWER_TIMEOUT_S = 5.0
_MOST_ANSWER = 1 << 20  # bytes
_GARBAGE = (httpx.HTTPError, httpx.StreamError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


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
        with suppress(*_GARBAGE):  # whatever answers on that port in this way is not at work: the pulse counts that
            status = self._read()
        self._pulse.burnt(self._process.cpu_s())
        fault = self._pulse.fault()
        if fault is not None:
            self._process.give_up(*fault)
        return status

    def _read(self) -> EngineStatus:
        plan, process = self._plan, self._process
        health = self._json("/health")
        if health.get("error"):
            raise explained(error_from_json(health["error"]), process.log.tail()[-LAST_LINES:])
        state = EngineState(health["state"])
        self.ready = self.ready or state is EngineState.READY
        figures = self._json("/stats") if state is EngineState.READY else {}
        if state is EngineState.READY:
            waited_for = bool(figures.get("active") or figures.get("waiting"))
            self._pulse.take(figures.get("steps", 0), waited_for=waited_for)
        else:
            at = (health["loaded_bytes"], health["total_bytes"], str(health["note"]))
            self._pulse.take(at, waited_for=True, loading=True)
        self._total_bytes = int(health["total_bytes"]) or self._total_bytes
        gpus = gpu_memory(process.pids()) if plan.machine.gpus else ()
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
            gpu_memory_bytes=sum(held for _, held in gpus),
            gpu_memory_each=gpus,
            pid=process.pid,
            slots=int(figures.get("slots", 0)),
            computed_tokens=int(figures.get("computed_tokens", 0)),
            cache_used=int(figures.get("cache_used", 0)),
            cache_total=int(figures.get("cache_total", 0)),
            short=int(figures.get("short", 0)),
            returning=plan.returning,
        )

    def _json(self, path: str) -> dict[str, Any]:
        """Return an answer that comes in time as a whole: a time-out of httpx is one of each read."""
        end, body = time.monotonic() + ANSWER_TIMEOUT_S, b""
        with self._client.stream("GET", path) as response:
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"status {response.status_code}")
            for part in response.iter_bytes():
                body += part
                if len(body) > _MOST_ANSWER or time.monotonic() > end:
                    raise ValueError("an endless answer")
        data: dict[str, Any] = json.loads(body)
        return data


def _message(data: Any) -> Message | None:
    return Message.from_json(data) if data else None
