"""One engine process: started, asked how it is, its last words kept, ended. Knows nothing about load, chat or status.

The child gets no proxy, no hub token and no network by way of the hub libraries. It runs in a session of its own, so
that Ctrl-C in a terminal reaches Cria and not the engine; when Cria is gone, its standard input closes and it ends.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import psutil

from backend.engines.client import Endpoint
from backend.errors import EngineError
from backend.settings import ROOT

START_TIMEOUT_S = 60.0
TERM_TIMEOUT_S = 5.0
LOG_LINES = 50
_LINE_LIMIT = 2000  # characters kept of a line
_LOG_LIMIT = 10_000_000  # bytes written to the log file
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
# A person's own setting wins over this one. Threads that spin while they wait cost a shared machine most of its speed:
# with other programs on two cores, a small model went from 9 to 169 tokens a second.
_UNLESS_SET = {"OMP_WAIT_POLICY": "PASSIVE"}


def child_environment(own: Mapping[str, str], gpus: tuple[int, ...] | None) -> dict[str, str]:
    """Return the environment of an engine process. ``gpus``: the ones it may see, None for no change."""
    kept = {name: value for name, value in own.items() if name.lower() not in _DROPPED}
    visible = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
    return _UNLESS_SET | kept | _SET | visible


class EngineProcess:
    """A running child. Construction returns when it listens; ``endpoint`` is where."""

    def __init__(
        self, module: str, arguments: list[str], *, model: str, gpus: tuple[int, ...] | None, log: Path
    ) -> None:
        """Start ``python -m module``.

        Raises:
            EngineError: it ended or did not speak up before it listened; the message has its last words.
        """
        self.dismissed = False  # it ended because we wanted it to
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        key = secrets.token_urlsafe(32)
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
        self._reader = threading.Thread(target=self._read_log, args=(self._child.stderr, log), daemon=True)
        self._reader.start()
        try:
            self._child.stdin.write(key.encode() + b"\n")
            self._child.stdin.flush()
            port = self._port(self._child.stdout)
        except (OSError, ValueError) as problem:
            self.end()
            raise EngineError("engine.no_start", log=self.last_words()) from problem
        self.endpoint = Endpoint(f"http://127.0.0.1:{port}", key, model)

    def _port(self, stdout: IO[bytes]) -> int:
        timer = threading.Timer(START_TIMEOUT_S, self._child.kill)
        timer.start()
        try:
            return int(json.loads(stdout.readline())["port"])
        finally:
            timer.cancel()

    def _read_log(self, stream: IO[bytes], log: Path) -> None:
        """Keep the last lines and write all of them to a file, up to a limit; runs until the child's pipe closes."""
        written = 0
        with contextlib.ExitStack() as stack:
            file: IO[str] | None = None
            with contextlib.suppress(OSError):
                log.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(log.open("w", encoding="utf-8"))
            for raw in stream:
                line = raw.decode("utf-8", "replace").rstrip()[:_LINE_LIMIT]
                self._lines.append(line)
                if file is not None and written < _LOG_LIMIT:
                    with contextlib.suppress(OSError):
                        written += file.write(line + "\n")
                        file.flush()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def log_tail(self) -> tuple[str, ...]:
        """Return the last lines it printed."""
        return tuple(self._lines)

    def last_words(self, lines: int = 8) -> str:
        """Return its last lines as one text; waits for the pipe to run dry when the child has ended."""
        if self._child.poll() is not None:
            self._reader.join(1.0)
        return "\n".join(list(self._lines)[-lines:]) or "-"

    def ended(self) -> str | None:
        """Return how the child ended, as ``exit code 1`` or ``SIGKILL``; None while it runs."""
        code = self._child.poll()
        if code is None:
            return None
        with contextlib.suppress(ValueError):
            if code < 0:
                return signal.Signals(-code).name
        return f"exit code {code}"

    def memory(self) -> int:
        """Return resident bytes of the child; 0 when it is gone."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def end(self) -> None:
        """End the child: politely, then not. Returns when it is gone."""
        self.dismissed = True
        if self._child.poll() is None:
            with contextlib.suppress(OSError):
                self._child.terminate()
            try:
                self._child.wait(TERM_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._close_pipes()

    def kill(self) -> None:
        """End the child at once; for one that does not answer."""
        with contextlib.suppress(OSError):
            self._child.kill()
        self._child.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._reader.join(1.0)
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def gpu_memory(pid: int) -> int:
    """Return the bytes of GPU memory a process holds, as the driver counts; 0 where nobody can tell."""
    try:
        import pynvml as nvml
    except ImportError:
        return 0
    total = 0
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return 0
    with contextlib.suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount()):
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index)):
                if process.pid == pid:
                    total += process.usedGpuMemory or 0
    with contextlib.suppress(nvml.NVMLError):
        nvml.nvmlShutdown()
    return total
