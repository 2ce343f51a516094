"""The one engine of an app: starts it, follows its loading, notices when it is ready, dies or hangs, and ends it.

One thread per load looks after one process. What anybody sees is an immutable ``EngineStatus`` that this thread
replaces as a whole, so ``status`` never waits; chatting works from any event loop. Knows nothing about torch or pages.
"""

import asyncio
import dataclasses
import json
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import httpx

from backend import hardware
from backend.engines import EngineKind, find_engine
from backend.engines.base import ChatMessage, EngineOptions, EngineState, EngineStatus, Piece, Sampling
from backend.engines.client import stream_chat
from backend.engines.folder import open_folder, wanted_context
from backend.engines.options import check_options, choose_gpus
from backend.engines.process import EngineProcess, gpu_memory
from backend.engines.pulse import HUNG_AFTER_S, STALLED_AFTER_S, Pulse
from backend.engines.serve import arguments
from backend.errors import CriaError, EngineError, WeightsError, error_from_json, unexpected
from backend.text import Message

LOADING_POLL_S = 0.1
READY_POLL_S = 0.5
ANSWER_TIMEOUT_S = 5.0
_DEATH_NOTICE_S = 2.0
_LOST = frozenset(("engine.lost", "engine.cut_off"))  # the connection broke: perhaps the process did

Probe = Callable[[], hardware.Hardware]


class Supervisor:
    """``EngineControl`` over one child process. Thread-safe."""

    def __init__(
        self,
        logs_dir: Path,
        *,
        probe: Probe | None = None,
        hung_after_s: float = HUNG_AFTER_S,
        stalled_after_s: float = STALLED_AFTER_S,
    ) -> None:
        self._logs_dir = logs_dir
        self._probe: Probe = probe or (lambda: hardware.probe(logs_dir))
        self._patience = (hung_after_s, stalled_after_s)
        self._lock = threading.Lock()  # guards the four fields below; held for moments only
        self._turn = 0  # counts loads and unloads; a thread whose turn is over leaves the status alone
        self._status = EngineStatus()
        self._since = time.monotonic()
        self._closed = False
        self._changing = threading.Lock()  # held while a process is being started or ended
        self._process: EngineProcess | None = None

    # -- what everybody may do

    def status(self) -> EngineStatus:
        """Return a snapshot; never blocks for longer than it takes to copy it."""
        with self._lock:
            status, since, process = self._status, self._since, self._process
        tail = process.log.tail() if process else status.log_tail
        return dataclasses.replace(status, seconds=time.monotonic() - since, log_tail=tail)

    async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Stream one reply. Closing the generator stops the computation within one token.

        Raises:
            EngineError: no engine is ready, it refused, or it died (what was produced came before).
            ContextFull: the conversation leaves no room for a reply.
        """
        with self._lock:
            ready, process = self._status.state is EngineState.READY, self._process
        if not ready or process is None:
            raise EngineError("engine.not_ready")
        try:
            async with aclosing(stream_chat(process.endpoint, messages, sampling)) as pieces:
                async for piece in pieces:
                    yield piece
        except EngineError as error:
            if error.key not in _LOST:
                raise
            raise await _why_lost(process, error) from error

    # -- what an administrator may do

    def load(self, folder: Path, options: EngineOptions) -> None:
        """Start loading a model folder in the background, replacing what is loaded; follow it with ``status``.

        Raises:
            UsageError: options that cannot work together or on this machine; nothing was unloaded.
            WeightsError: the folder is not a loadable model; nothing was unloaded.
        """
        machine = self._probe()
        check_options(options, machine)
        kind = find_engine(options.engine)
        total = _check_folder(folder, options, kind)
        first = EngineStatus(EngineState.STARTING, folder.name, options, total_bytes=total)
        with self._lock:
            if self._closed:
                raise EngineError("engine.not_ready")
            turn = self._next_turn(first)
        plan = _Plan(turn, folder, options, kind, choose_gpus(options, machine), watch_gpu=bool(machine.gpus))
        threading.Thread(target=self._run, args=(plan,), name=f"engine-{turn}", daemon=True).start()

    def unload(self) -> None:
        """End the engine process; returns when it is gone and its memory is back."""
        with self._lock:
            if self._status.state is EngineState.OFF:
                return
            turn = self._next_turn(dataclasses.replace(self._status, state=EngineState.STOPPING, error=None))
        with self._changing:
            if self._is_turn(turn):
                self._end_process()
        self._set(turn, EngineStatus())

    def close(self) -> None:
        """Unload for good; ``load`` refuses from now on."""
        with self._lock:
            self._closed = True
        self.unload()

    def wait_ready(self, timeout_s: float) -> EngineStatus:
        """Wait until the engine is ready, and return its status.

        Raises:
            CriaError: why it failed; ``engine.not_in_time`` when it takes longer than that.
        """
        end = time.monotonic() + timeout_s
        while True:
            status = self.status()
            if status.state is EngineState.READY:
                return status
            if status.state is EngineState.FAILED and status.error is not None:
                raise status.error
            if status.state in (EngineState.OFF, EngineState.STOPPING):
                raise EngineError("engine.not_ready")
            if time.monotonic() > end:
                raise EngineError("engine.not_in_time", seconds=timeout_s)
            time.sleep(0.02)

    # -- the thread that looks after one process

    def _run(self, plan: "_Plan") -> None:
        try:
            with self._changing:
                if not self._is_turn(plan.turn):
                    return  # a later load came first: what runs now is its process
                self._end_process()
                process = EngineProcess(
                    plan.kind.module,
                    arguments(plan.folder, plan.options),
                    model=plan.folder.name,
                    gpus=plan.gpus,
                    logs=self._logs_dir,
                )
                with self._lock:
                    self._process = process
            self._watch(plan, process)
        except CriaError as error:
            self._fail(plan.turn, error)
        except Exception as problem:  # noqa: BLE001 - a thread nobody awaits: its end must be seen in the status
            self._fail(plan.turn, unexpected(problem))

    def _watch(self, plan: "_Plan", process: EngineProcess) -> None:
        """Follow a process until its turn is over or it is; raises why it failed."""
        pulse = Pulse(*self._patience)
        with httpx.Client(
            base_url=process.endpoint.url,
            headers=process.endpoint.headers,
            timeout=ANSWER_TIMEOUT_S,
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        ) as client:
            while self._is_turn(plan.turn):
                death = process.death()
                if death is not None:
                    raise death
                with suppress(httpx.HTTPError, ValueError):
                    self._read(plan, process, client, pulse=pulse)
                fault = pulse.fault()
                if fault is not None:
                    process.give_up(*fault)
                    continue
                time.sleep(READY_POLL_S if self._status.state is EngineState.READY else LOADING_POLL_S)

    def _read(self, plan: "_Plan", process: EngineProcess, client: httpx.Client, *, pulse: Pulse) -> None:
        health = _json(client.get("/health"))
        if health.get("error"):
            raise error_from_json(health["error"])
        state = EngineState(health["state"])
        figures = _json(client.get("/stats")) if state is EngineState.READY else {}
        pulse.take(active=int(figures.get("active", 0)), steps=int(figures.get("steps", 0)))
        status = EngineStatus(
            state,
            plan.folder.name,
            plan.options,
            loaded_bytes=int(health["loaded_bytes"]),
            total_bytes=int(health["total_bytes"]) or self._status.total_bytes,
            context=int(health["context"]),
            placement=_message(health["placement"]),
            note=_message(health["note"]),
            active=int(figures.get("active", 0)),
            waiting=int(figures.get("waiting", 0)),
            tokens_per_s=float(figures.get("tokens_per_s", 0.0)),
            memory_bytes=process.memory(),
            gpu_memory_bytes=gpu_memory(process.pid) if plan.watch_gpu else 0,
            pid=process.pid,
        )
        self._set(plan.turn, status)

    def _fail(self, turn: int, error: CriaError) -> None:
        """Show why it failed, and give its memory back; the last log lines stay."""
        with self._lock:
            process = self._process
            mine = turn == self._turn
        tail = process.log.tail() if process and mine else ()
        if mine:
            with self._changing:
                if self._is_turn(turn):
                    self._end_process()
        status = EngineStatus(EngineState.FAILED, self._status.model, self._status.options, error=error, log_tail=tail)
        self._set(turn, status)

    # -- small things

    def _next_turn(self, status: EngineStatus) -> int:
        """Begin a new turn; the lock is held."""
        self._turn += 1
        self._status, self._since = status, time.monotonic()
        return self._turn

    def _is_turn(self, turn: int) -> bool:
        with self._lock:
            return turn == self._turn

    def _set(self, turn: int, status: EngineStatus) -> None:
        with self._lock:
            if turn != self._turn:
                return
            if status.state is not self._status.state:
                self._since = time.monotonic()
            self._status = status

    def _end_process(self) -> None:
        """End the process if there is one; the caller holds ``_changing``."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.end()


@dataclasses.dataclass(frozen=True)
class _Plan:
    """One load: what to start and whose turn it is."""

    turn: int
    folder: Path
    options: EngineOptions
    kind: EngineKind
    gpus: tuple[int, ...] | None
    watch_gpu: bool


def _check_folder(folder: Path, options: EngineOptions, kind: EngineKind) -> int:
    """Make sure that a folder can be loaded, and return the bytes of its weights."""
    if not kind.computes:
        if not folder.is_dir():
            raise WeightsError("engine.no_folder", folder=str(folder))
        return 0
    opened = open_folder(folder)
    wanted_context(opened, options.context)
    return opened.checkpoint.nbytes


async def _why_lost(process: EngineProcess, error: EngineError) -> EngineError:
    """Return a better error for a broken connection: usually the process has just died, and its log says why."""
    end = time.monotonic() + _DEATH_NOTICE_S
    while time.monotonic() < end:
        death = process.death()
        if process.dismissed:
            return EngineError("engine.unloaded")
        if death is not None:
            return death
        await asyncio.sleep(0.05)
    return error


def _json(response: httpx.Response) -> dict[str, Any]:
    if response.status_code != httpx.codes.OK:
        raise ValueError(f"status {response.status_code}")
    data: dict[str, Any] = json.loads(response.content)
    return data


def _message(data: Any) -> Message | None:
    return Message.from_json(data) if data else None
