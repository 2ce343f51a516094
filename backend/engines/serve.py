"""What every engine process does around its model: arguments, the key, a free port, loading in the background, the end.

The parent writes the key as the first line of standard input, which no process listing shows; when that pipe closes,
the parent is gone and so is this process. One JSON line on standard output says the port; everything else printed goes
to the log (standard error). Knows nothing about any particular engine.
"""

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import uvicorn

from backend.engines.base import EngineOptions, EngineState, Lora
from backend.engines.generator import Generator, Readiness
from backend.engines.memory import is_out_of_memory, out_of_memory
from backend.engines.server_app import build_app
from backend.errors import CriaError, unexpected

Load = Callable[[Readiness], Generator]


def arguments(folder: Path, options: EngineOptions) -> list[str]:
    """Return the command line that ``serve`` reads back."""
    return ["--folder", str(folder), "--options", json.dumps(asdict(options))]


def options_from_json(text: str) -> EngineOptions:
    """Rebuild options from ``arguments``."""
    data: dict[str, Any] = json.loads(text)
    loras = tuple(Lora(**one) for one in data["loras"])
    return EngineOptions(**{**data, "gpus": tuple(data["gpus"]), "loras": loras})


def serve(load: Load, tidy: Callable[[], object] = bool) -> None:
    """Run an engine process to its end; ``load`` runs in a thread of its own and returns the generator. ``tidy``
    removes what the engine leaves on disk, when its parent is gone and it ends at once.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--options", type=options_from_json, required=True)
    told = parser.parse_args()
    key = sys.stdin.buffer.readline().decode("ascii").strip()
    threading.Thread(target=_end_with_parent, args=(tidy,), name="parent-watch", daemon=True).start()
    report = _claim_stdout()
    readiness = Readiness(told.folder, told.options)
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(readiness, key),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        os.write(report, json.dumps({"port": listener.getsockname()[1]}).encode() + b"\n")
        os.close(report)
        threading.Thread(target=_load, args=(load, readiness), name="loading", daemon=True).start()
        server.run(sockets=[listener])
    if readiness.generator is not None:
        readiness.generator.close()
    # Threads of libraries may still run; nothing here needs their consent to end.
    sys.stderr.flush()
    os._exit(0)


def _load(load: Load, readiness: Readiness) -> None:
    readiness.state = EngineState.LOADING
    try:
        readiness.generator = load(readiness)
        readiness.loaded_bytes = readiness.total_bytes
        readiness.state = EngineState.READY
    except CriaError as error:
        readiness.error, readiness.state = error, EngineState.FAILED
    except Exception as problem:  # noqa: BLE001 - whatever loading runs into, the parent must be able to read it
        traceback.print_exc()
        readiness.error = out_of_memory(problem) if is_out_of_memory(problem) else unexpected(problem)
        readiness.state = EngineState.FAILED


def _end_with_parent(tidy: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        while sys.stdin.buffer.read(4096):
            pass
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    tidy()
    os._exit(0)


def _claim_stdout() -> int:
    """Return a private copy of standard output, and send whatever libraries print there to the log instead."""
    report = os.dup(1)
    os.dup2(2, 1)
    return report
