"""The one engine of an app: starts it, follows its loading, starts it again after a crash, lets it sleep, and ends it.

One thread per load looks after one process at a time. What anybody sees is an immutable ``EngineStatus`` that this
thread replaces as a whole, so ``status`` never waits; chatting works from any event loop. Knows nothing about torch or
pages.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from backend import hardware
from backend.engines import find_engine
from backend.engines.adapters import choose_scales
from backend.engines.admission import admit
from backend.engines.base import ChatMessage, EngineOptions, EngineState, EngineStatus, Piece, Sampling
from backend.engines.client import stream_chat
from backend.engines.idle import Idle
from backend.engines.memory import memory_was_short
from backend.engines.options import choose_gpus
from backend.engines.process import EngineProcess
from backend.engines.pulse import HUNG_AFTER_S, STALLED_AFTER_S
from backend.engines.recovery import DELAYS_S, Recovery
from backend.engines.serve import arguments
from backend.engines.smaller import smaller
from backend.engines.turns import Turns
from backend.engines.watcher import Plan, Watcher
from backend.errors import CriaError, EngineError, unexpected
from backend.text import Message
from backend.weights.gguf_ready import holds_ready

LOADING_POLL_S = 0.1
READY_POLL_S = 0.5
MINUTE_S = 60.0
_LOST = frozenset(("engine.lost", "engine.cut_off"))  # the connection broke: perhaps the process did
_COMING = frozenset((EngineState.STARTING, EngineState.LOADING))


class Supervisor:
    """``EngineControl`` over one child process. Thread-safe."""

    def __init__(
        self,
        logs_dir: Path,
        *,
        probe: Callable[[], hardware.Hardware] | None = None,
        hung_after_s: float = HUNG_AFTER_S,
        stalled_after_s: float = STALLED_AFTER_S,
        restart_delays_s: Sequence[float] = DELAYS_S,
    ) -> None:
        self._logs_dir = logs_dir
        self._probe = probe or (lambda: hardware.probe(logs_dir))
        self._patience = (hung_after_s, stalled_after_s)
        self._delays_s = tuple(restart_delays_s)
        self._turns, self._idle = Turns(), Idle()
        self._closed = False
        self._asleep: Plan | None = None  # what to wake up with
        self._process: EngineProcess | None = None
        self._changing = threading.Lock()  # held while a process is being started or ended
        self._waking = threading.Lock()  # held while somebody wakes the engine: the others need not

    def status(self) -> EngineStatus:
        """Return a snapshot; never blocks for longer than it takes to copy it."""
        status, process = self._turns.status(), self._process
        return replace(status, log_tail=process.log.tail()) if process else status

    async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Stream one reply. Closing the generator stops the computation within one token. Wakes a sleeping engine.

        Raises:
            EngineError: no engine is ready, it refused, or it died (what was produced came before).
            ContextFull: the conversation leaves no room for a reply.
            CriaError: it slept, and why it does not wake up.
            UsageError: an adapter is asked for that is not attached.
        """
        choose_scales(self._turns.status().options.loras, sampling)
        with self._idle.interrupted():
            await self._awake()
            ready, process = self._turns.status().state is EngineState.READY, self._process
            if not ready or process is None:
                raise EngineError("engine.not_ready")
            try:
                async with aclosing(stream_chat(process.endpoint, messages, sampling)) as pieces:
                    async for piece in pieces:
                        yield piece
            except EngineError as error:
                if error.key not in _LOST:
                    raise
                raise await process.why_lost(error) from error

    # -- what an administrator may do

    def load(self, folder: Path, options: EngineOptions) -> None:
        """Start loading a model folder in the background, replacing what is loaded; follow it with ``status``.

        Raises:
            UsageError: options that cannot work together or on this machine; nothing was unloaded.
            WeightsError: the folder is not a loadable model; nothing was unloaded.
        """
        if not self._begin(folder, options):
            raise EngineError("engine.not_ready")

    def _begin(
        self, folder: Path, options: EngineOptions, *, after: int | None = None, remark: Message | None = None
    ) -> bool:
        """Begin a load, as ``load`` says; tell whether that was done: not when it is closed, or turn ``after`` over."""
        machine = self._probe()
        options, why, total = admit(folder, options, machine)
        kind, returning = find_engine(options.engine), after is not None
        first = EngineStatus(EngineState.STARTING, folder.name, options, total_bytes=total, returning=returning)
        turn = self._turns.begin(first, after=after, provided=lambda: not self._closed)
        if turn is None:
            return False
        plan = Plan(turn, folder, options, kind, choose_gpus(options, machine), machine, remark or why, returning)
        threading.Thread(target=self._run, args=(plan,), name=f"engine-{turn}", daemon=True).start()
        return True

    def unload(self) -> None:
        """End the engine process; returns when it is gone and its memory is back."""
        status = self._turns.status()
        if status.state is EngineState.OFF:
            return
        turn = self._turns.begin(replace(status, state=EngineState.STOPPING, error=None))
        assert turn is not None  # there was no condition
        with self._changing:
            gone = not self._turns.is_on(turn) or self._end_process()
        error = None if gone else EngineError("hard.will_not_end", pid=status.pid)
        self._turns.set(turn, EngineStatus(EngineState.FAILED, status.model, error=error) if error else EngineStatus())

    def close(self) -> None:
        """Unload for good; ``load`` refuses from now on."""
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
            if status.state not in _COMING:
                raise EngineError("engine.not_ready")
            if time.monotonic() > end:
                raise EngineError("engine.not_in_time", seconds=timeout_s)
            time.sleep(0.02)

    # -- the thread that looks after one load

    def _run(self, plan: Plan) -> None:
        recovery = Recovery(self._delays_s)
        try:
            while self._turns.is_on(plan.turn):
                fault = self._follow(plan, recovery)
                if fault is None:
                    return
                self._pause(plan, recovery, fault)
        except CriaError as error:
            self._fail(plan, error)
        except Exception as problem:  # noqa: BLE001 - a thread nobody awaits: its end must be seen in the status
            self._fail(plan, unexpected(problem))

    def _follow(self, plan: Plan, recovery: Recovery) -> CriaError | None:
        """Start a process and follow it to its end; return why it crashed once it had been ready, None if all is well.

        Raises:
            CriaError: it never got ready.
        """
        ready = recovery.restarts.count > 0
        try:
            process = self._start(plan)
            if process is None:
                return None
            with Watcher(plan, process, self._patience) as watcher:
                try:
                    self._watch(plan, watcher, recovery)
                finally:
                    ready = ready or watcher.ready
        except CriaError as error:
            if not ready:
                raise
            return error
        return None

    def _start(self, plan: Plan) -> EngineProcess | None:
        """Start the process in place of the one there is; None when a later load came first: then its process runs."""
        with self._changing:
            if not self._turns.is_on(plan.turn):
                return None
            self._end_process()
            process = EngineProcess(
                plan.kind.module,
                arguments(plan.folder, plan.options),
                model=plan.folder.name,
                gpus=plan.gpus,
                logs=self._logs_dir,
                has_family=plan.kind.has_family,
            )
            self._process = process
        return process

    def _watch(self, plan: Plan, watcher: Watcher, recovery: Recovery) -> None:
        """Show how the process is until its turn is over or it goes to sleep; raises why it ended by itself."""
        while self._turns.is_on(plan.turn):
            status = watcher.look()
            if status is not None:
                total = status.total_bytes or self._turns.status().total_bytes
                shown = recovery.restarts.on(replace(status, total_bytes=total))
                offer = shown.offer or (self._smaller(plan) if status.short else None)
                self._turns.set(plan.turn, replace(shown, offer=offer))
            if watcher.ready and self._fall_asleep(plan):
                return
            time.sleep(READY_POLL_S if watcher.ready else LOADING_POLL_S)

    def _pause(self, plan: Plan, recovery: Recovery, fault: CriaError) -> None:
        """Give the memory of a crashed process back, and wait before the next start.

        Raises:
            CriaError: the crash itself, when there should be no next start.
        """
        delay = recovery.delay(fault, self._offer(plan, fault))
        if delay is None:
            raise fault
        note = Message("ops.restarting", {"seconds": delay})
        status = EngineStatus(EngineState.STARTING, self._turns.status().model, plan.options, note=note)
        self._turns.set(plan.turn, recovery.restarts.on(status))
        with self._changing:
            if self._turns.is_on(plan.turn):
                self._end_process()
        end = time.monotonic() + delay
        while self._turns.is_on(plan.turn) and time.monotonic() < end:
            time.sleep(min(LOADING_POLL_S, delay))

    def _fail(self, plan: Plan, error: CriaError) -> None:
        """Show why it failed, and give its memory back; the last log lines stay."""
        offer = self._offer(plan, error)
        with self._changing:
            if not self._turns.is_on(plan.turn):
                return
            process = self._process
            tail = process.log.tail() if process else ()
            self._end_process()
        last = self._turns.status()
        status = EngineStatus(EngineState.FAILED, last.model, plan.options, error=error, log_tail=tail, offer=offer)
        self._turns.set(plan.turn, replace(status, restarts=last.restarts))

    def _offer(self, plan: Plan, error: CriaError) -> EngineOptions | None:
        return self._smaller(plan) if memory_was_short(error) else None

    def _smaller(self, plan: Plan) -> EngineOptions | None:
        context, quantises = self._turns.status().context, not holds_ready(plan.folder)
        return smaller(plan.options, plan.machine, context, quantises=quantises)

    def _fall_asleep(self, plan: Plan) -> bool:
        """End the process if nobody has asked for anything in so many minutes; tell whether that was done."""
        enough_s, now = plan.options.idle_minutes * MINUTE_S, self._turns.status()
        if not enough_s or min(self._idle.seconds(), now.seconds) < enough_s:
            return False
        self._asleep = plan
        note = Message("ops.asleep", {"time": time.strftime("%H:%M"), "minutes": plan.options.idle_minutes})
        status = EngineStatus(EngineState.ASLEEP, now.model, plan.options, note=note)
        # Asked again, at the moment itself: whoever comes a moment later sees that it sleeps, and wakes it.
        turn = self._turns.begin(status, after=plan.turn, provided=lambda: self._idle.seconds() >= enough_s)
        if turn is None:
            return False
        with self._changing:
            if self._turns.is_on(turn):
                self._end_process()
        return True

    async def _awake(self) -> None:
        """Wake a sleeping engine, and wait for one that is on its way; raises why it does not come."""
        if self._turns.status().state is EngineState.ASLEEP:
            await asyncio.to_thread(self._wake)
        waited = False
        while (status := self._turns.status()).state in _COMING or self._has_just_died(status):
            waited = True
            await asyncio.sleep(LOADING_POLL_S)
        if waited and status.error is not None:
            raise status.error

    def _has_just_died(self, status: EngineStatus) -> bool:
        """Tell whether the process is gone and its watcher has yet to notice: then a restart or a reason comes soon."""
        process = self._process
        return status.state is EngineState.READY and process is not None and process.has_ended

    def _wake(self) -> None:
        with self._waking:
            (turn, status), plan = self._turns.now(), self._asleep
            if status.state is EngineState.ASLEEP and plan is not None:
                self._begin(plan.folder, plan.options, after=turn, remark=plan.remark)

    def _end_process(self) -> bool:
        """End the process if there is one; tell whether none is left. The caller holds ``_changing``."""
        process, self._process = self._process, None
        return process is None or process.end()
