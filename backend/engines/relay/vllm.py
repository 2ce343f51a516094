"""The engine that is vLLM: starts ``vllm serve`` on loopback with a key of its own, watches it, passes requests on.

Started with ``python -m``. Knows nothing about vLLM's Python code: it may live in an environment of its own.
"""

import contextlib
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable

import httpx

from backend.engines import find_program
from backend.engines.client import Endpoint, tls
from backend.engines.generator import Generator, Readiness
from backend.engines.relay.upstream import Upstream, list_models
from backend.engines.relay.vllm_command import PROGRAM, command, environment, memory_share
from backend.engines.serve import serve
from backend.errors import CriaError, EngineError
from backend.hardware import probe
from backend.text import Message

POLL_S = 0.5
SILENCE_S = 300.0


def load(readiness: Readiness) -> Generator:
    """Start vLLM and wait until it answers; what it prints goes to this process's log.

    Raises:
        UsageError: it is not installed.
        EngineError: it ended before it was ready.
    """
    options, folder = readiness.options, readiness.folder
    port, key = _free_port(), secrets.token_urlsafe(32)
    words = command(find_program(PROGRAM), folder, options, port=port)
    if options.max_gpu_memory:
        sizes = [gpu.total_bytes for gpu in probe(folder).gpus if gpu.total_bytes]
        words += memory_share(options.max_gpu_memory, min(sizes, default=0))
    child = subprocess.Popen(words, env=environment(os.environ, key), stdin=subprocess.DEVNULL, stdout=2)

    def fault() -> CriaError | None:
        code = child.poll()
        return None if code is None else EngineError("engine.died", code=code, log="")

    endpoint = Endpoint(f"http://127.0.0.1:{port}", key, folder.name, silence_s=SILENCE_S)
    _wait(endpoint, fault)
    context = next((one.context for one in list_models(endpoint) if one.name == folder.name), 0)
    gpus = len(options.gpus) or options.num_gpus or 1
    return Upstream(endpoint, context=context, placement=Message("remote.vllm", {"count": gpus}), fault=fault)


def _wait(endpoint: Endpoint, fault: Callable[[], CriaError | None]) -> None:
    with httpx.Client(timeout=5.0, trust_env=False, verify=tls(endpoint.url)) as client:
        while (problem := fault()) is None:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{endpoint.url}/health").status_code == httpx.codes.OK:
                    return
            time.sleep(POLL_S)
    raise problem


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    serve(load)
