"""Workers that start at once: a server that has imported everything forks one for each job. For tests only.

    with WarmWorkers(scratch) as warm:
        JobManager(data_dir, worker=warm.module, environment={**access.to_environment(), **warm.environment})

The manager starts this module as it would start the real worker. It hands the job's lock and output to the server,
which runs the job in a process of its own with a process id of its own: killing that is killing the worker. The steps
are the real ones. ``environment`` says what differs from a real worker, see ``Tune``.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

BALLAST, HELD = "ballast", "held"  # files beside the data folder
_SOCKET, _TUNE = "CRIA_TEST_SOCKET", "CRIA_TEST_TUNE"
_STARTED_S = 120.0


@dataclass(frozen=True)
class Tune:
    """What differs from a real worker: less patience with networks, small output shards, a disk that fills up.

    ``full_before``: a step (or ``publish``) before which the disk under the data folder is filled but for
    ``free`` bytes, by a file ``ballast`` beside the data folder. ``file_limit``: largest file in bytes (RLIMIT_FSIZE).
    ``hold_in``: a step that stands still after half of its bytes, until the worker is told to stop or killed; then
    a file ``held`` lies beside the data folder. ``peeks``: small models are looked into before they are there, too.
    """

    window_s: float = 1.0
    retry_s: float = 0.02
    patience_s: float = 3.0
    shard_bytes: int = 0
    full_before: str = ""
    free: int = 0
    hold_in: str = ""
    file_limit: int = 0
    peeks: bool = False

    def to_environment(self) -> dict[str, str]:
        return {_TUNE: json.dumps(asdict(self))}


class WarmWorkers:
    """The server, from ``with`` to the end of its block."""

    module = "tests.backend.jobs.warm_worker"

    def __init__(self, scratch: Path) -> None:
        self._socket = scratch / "warm.sock"
        self.environment = {_SOCKET: str(self._socket)}

    def __enter__(self) -> "WarmWorkers":
        command = [sys.executable, "-m", self.module, "--serve", str(self._socket)]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + _STARTED_S
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError("the warm workers did not start")
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()


def hand_over(arguments: list[str]) -> None:
    """Give a job to the server: its folder, the data folder, the lock and where its output goes."""
    told = json.dumps({"folder": arguments[0], "data": arguments[1], "environment": dict(os.environ)})
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ[_SOCKET])
        socket.send_fds(line, [b"%8d" % len(told)], [int(arguments[2]), sys.stdout.fileno()])
        line.sendall(told.encode())
        line.recv(1)  # until the worker is there, the lock is held here


def serve(path: Path) -> None:
    """Fork a worker for every job that is handed over, until SIGTERM."""
    import torch

    import backend.composition
    import backend.engines.supervisor
    import backend.jobs.worker  # noqa: F401

    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as door:
        fresh = path.with_suffix(".new")
        door.bind(str(fresh))
        door.listen(16)
        fresh.rename(path)  # else somebody may knock before anybody listens
        while True:
            line, _ = door.accept()
            length, handles, _, _ = socket.recv_fds(line, 8, 2)
            told = json.loads(_exactly(line, int(length)))
            if os.fork() == 0:
                door.close()
                line.close()
                os._exit(work(told, *handles))
            for handle in handles:
                os.close(handle)
            line.close()


def _exactly(line: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += line.recv(count - len(data))
    return data


def work(told: dict[str, Any], lock: int, output: int) -> int:
    """Be a worker: what ``python -m backend.jobs.worker`` does, but for what ``Tune`` says. The lock stays open."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(told["environment"])
    try:
        return run_tuned(Path(told["folder"]), Path(told["data"]))
    except BaseException:  # noqa: BLE001 - as the interpreter would
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run_tuned(folder: Path, data_dir: Path) -> int:
    """Run a job in this process."""
    import resource

    from backend.jobs.worker import run

    tune = Tune(**json.loads(os.environ.get(_TUNE, "{}")))
    shorten(tune)
    if tune.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (tune.file_limit, tune.file_limit))
    return run(folder, data_dir, table=_table(tune, data_dir))


def shorten(tune: Tune) -> None:
    """Give the network less time, and output shards fewer bytes, than people get."""
    from dataclasses import replace

    from backend.sources import arriving
    from backend.sources.access import Access
    from backend.sources.fetch import Options
    from backend.weights import writer

    usual = Access.options.fget  # type: ignore[attr-defined]

    def options(access: Access) -> Options:
        return replace(usual(access), window_s=tune.window_s, retry_s=tune.retry_s, patience_s=tune.patience_s)

    if tune.peeks:
        arriving._SOON, arriving._SMALL = 0, 1 << 16
    Access.options = property(options)  # type: ignore[assignment,method-assign]
    if tune.shard_bytes:
        before = writer.SHARD_BYTES
        for module in [module for name, module in sys.modules.items() if name.startswith("backend.")]:
            for made in vars(module).values():
                for place in ("__defaults__", "__kwdefaults__"):
                    given = getattr(made, place, None)
                    if given and before in (given.values() if isinstance(given, dict) else given):
                        setattr(made, place, _with(given, before, tune.shard_bytes))
            if getattr(module, "SHARD_BYTES", None) == before:
                module.SHARD_BYTES = tune.shard_bytes  # type: ignore[attr-defined]


def _with(given: Any, before: int, after: int) -> Any:
    if isinstance(given, dict):
        return {name: after if value == before else value for name, value in given.items()}
    return tuple(after if value == before else value for value in given)


def _table(tune: Tune, data_dir: Path) -> Any:
    from backend.events import Event, Progress
    from backend.jobs.steps import STEPS, Context

    def filled(context: Context) -> Iterator[Event]:
        fill(data_dir, tune.free)
        yield from STEPS[tune.full_before](context)

    def held(context: Context) -> Iterator[Event]:
        held, parent = False, os.getppid()
        for event in STEPS[tune.hold_in](context):
            yield event
            if not held and isinstance(event, Progress) and event.done >= max(event.total / 2, 1):
                held = True
                (data_dir.parent / HELD).write_text(tune.hold_in, encoding="utf-8")  # the journal may say it later
                while not context.cancelled():
                    time.sleep(0.01)
                    if os.getppid() != parent:  # the tests are over
                        os._exit(1)

    changed = {tune.full_before: filled, tune.hold_in: held}
    return {name: changed.get(name, step) for name, step in STEPS.items()}


def fill(data_dir: Path, free: int = 0) -> None:
    """Fill the disk that a data folder is on, but for so many bytes; if a worker writes meanwhile, try again."""
    with (data_dir.parent / BALLAST).open("ab", buffering=0) as file:
        while (count := shutil.disk_usage(data_dir).free - free) > 0:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), count)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(Path(sys.argv[2]))
    else:
        hand_over(sys.argv[1:])
