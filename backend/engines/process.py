"""One engine process: started, asked how it is, its last words kept, ended. Knows nothing about load, chat or status.

The child gets no proxy, no hub token and no network by way of the hub libraries. It runs in a session of its own, so
that Ctrl-C in a terminal reaches Cria and not the engine; when Cria is gone, its standard input closes and it ends.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import psutil

from backend.engines.client import Endpoint
from backend.engines.log import EngineLog
from backend.engines.memory import ended_by, killed_processes
from backend.errors import EngineError
from backend.settings import ROOT

START_TIMEOUT_S = 60.0
TERM_TIMEOUT_S = 5.0
KILL_TIMEOUT_S = 10.0  # Linux ends nobody in the midst of a system call, and a driver may never come back from one
_DEATH_NOTICE_S = 2.0
_DROPPED = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "hf_token", "hugging_face_hub_token", "hf_endpoint")
_SET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "PYTHONIOENCODING": "utf-8",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order in which the driver counts, which is what --gpus means
}
_UNLESS_SET = {  # a person's own setting wins over these
    # Threads that spin while they wait cost a shared machine most of its speed: with other programs on two cores, a
    # small model went from 9 to 169 tokens a second.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Ask Linux for large pages where much memory is taken at once: weights are read whole for every token, and looking
    # up the addresses of small pages cost llama.cpp's 4-bit weights 9 to 20 % of their speed. Two heaps for small
    # things, where each of many short-lived threads would be given one of sixteen: those all grow before they settle.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2",
}


def child_environment(own: Mapping[str, str], gpus: tuple[int, ...] | None) -> dict[str, str]:
    """Return the environment of an engine process. ``gpus``: the ones it may see, None for no change."""
    kept = {name: value for name, value in own.items() if name.lower() not in _DROPPED}
    visible = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
    return _UNLESS_SET | kept | _SET | visible


class EngineProcess:
    """A running child. Construction returns when it listens; ``endpoint`` is where."""

    def __init__(
        self,
        module: str,
        arguments: list[str],
        *,
        model: str,
        gpus: tuple[int, ...] | None,
        logs: Path,
        has_family: bool = False,
    ) -> None:
        """Start ``python -m module``; what it prints goes to a file of its own in the folder ``logs``.

        ``has_family``: it starts processes of its own, whose memory counts as its own and which end with it.

        Raises:
            EngineError: it ended or did not speak up before it listened; the message has its last words.
        """
        self.dismissed = False  # it ended because we wanted it to
        self._has_family = has_family
        self._fault: tuple[str, float] | None = None  # why it was given up, and after how many seconds
        key, self._killed_before = secrets.token_urlsafe(32), killed_processes()
        # A run-time child of this very interpreter: the environment is read here only to be handed on.
        self._child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=child_environment(os.environ, gpus),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._child.stdin
        assert self._child.stdout
        assert self._child.stderr
        self.log = EngineLog(self._child.stderr, logs, self._child.pid)
        try:
            self._child.stdin.write(key.encode() + b"\n")
            self._child.stdin.flush()
            port = self._port(self._child.stdout)
        except (OSError, ValueError) as problem:
            self.end()
            raise EngineError("engine.no_start", file=self.log.name, log=self.log.last_words()) from problem
        self.endpoint = Endpoint(f"http://127.0.0.1:{port}", key, model)

    def _port(self, stdout: IO[bytes]) -> int:
        timer = threading.Timer(START_TIMEOUT_S, self._child.kill)
        timer.start()
        try:
            return int(json.loads(stdout.readline())["port"])
        finally:
            timer.cancel()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def has_ended(self) -> bool:
        """Whether it was given up or has ended by itself."""
        return self._fault is not None or self._child.poll() is not None

    def death(self) -> EngineError | None:
        """Return why it was given up or how it ended by itself; None while it runs."""
        if self._fault is not None:
            key, seconds = self._fault
            return EngineError(key, seconds=seconds, log=self.log.last_words())
        code = self._child.poll()
        if code is None:
            return None
        self.log.wait()
        return ended_by(code, self.log.last_words(), killed_before=self._killed_before)

    async def why_lost(self, error: EngineError) -> EngineError:
        """Return a better error for a broken connection: usually the child has just died, and its log says why.

        In a thread: the log may take a moment to run dry, where the child's own children still hold its other end.
        """
        end = time.monotonic() + _DEATH_NOTICE_S
        while time.monotonic() < end:
            death = await asyncio.to_thread(self.death)
            if self.dismissed:
                return EngineError("engine.unloaded")
            if death is not None:
                return death
            await asyncio.sleep(0.05)
        return error

    def give_up(self, key: str, seconds: float) -> None:
        """End the child at once because of a fault; ``death`` tells which to whoever asks."""
        self._fault = (key, seconds)
        self.kill()

    def cpu_s(self) -> float:
        """Return the seconds of processor time of the child and its family; 0 when it is gone."""
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> int:
        """Return resident bytes of the child and its family; 0 when it is gone."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                total += int(psutil.Process(pid).memory_info().rss)
        return total

    def pids(self) -> tuple[int, ...]:
        """Return the process ids of the child and its family."""
        found = [self.pid]
        if self._has_family:
            found += [one.pid for one in self._family()]
        return tuple(found)

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            found: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
            return found
        return []

    def end(self) -> bool:
        """End the child: politely, then not. Returns when it is gone; False when nothing can end it."""
        family = self._family()
        if self._child.poll() is None:
            self.dismissed = True
            with contextlib.suppress(OSError):
                self._child.terminate()
            try:
                self._child.wait(TERM_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._close_pipes()
        return _have_gone(family) and self._child.poll() is not None

    def kill(self) -> None:
        """End the child at once; for one that does not answer."""
        with contextlib.suppress(OSError):
            self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(KILL_TIMEOUT_S)
        self._close_pipes()

    def _close_pipes(self) -> None:
        # The child leads a group of its own. Whoever of it is left ends now: a chat template in the midst of a loop
        # would keep its memory for seconds, vLLM's workers for ever.
        with contextlib.suppress(OSError, AttributeError):  # Windows has no groups
            os.killpg(self.pid, signal.SIGKILL)
        self.log.wait()  # who reads standard error also closes it: closing it here would wait for whoever holds its end
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _have_gone(family: list[psutil.Process]) -> bool:
    """Wait until processes that were killed are gone; tell whether they are. Their parent is, so nobody is told."""
    end = time.monotonic() + KILL_TIMEOUT_S
    while any(map(_holds_memory, family)):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _holds_memory(one: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(one.is_running() and one.status() != psutil.STATUS_ZOMBIE)
    return False


def gpu_memory(pids: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return (index of a GPU, bytes that processes hold there) as the driver counts; empty where nobody can tell."""
    try:
        import pynvml as nvml
    except ImportError:
        return ()
    held: dict[int, int] = {}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    with contextlib.suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount()):
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index)):
                if process.pid in pids:
                    held[index] = held.get(index, 0) + (process.usedGpuMemory or 0)
    with contextlib.suppress(nvml.NVMLError):
        nvml.nvmlShutdown()
    return tuple(held.items())
