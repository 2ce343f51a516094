"""The engine that is vLLM: starts ``vllm serve`` on loopback with a key of its own, watches it, passes requests on.

Started with ``python -m``. Knows nothing about vLLM's Python code: it may live in an environment of its own.
"""

import contextlib
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from backend.engines import find_program
from backend.engines.adapters import choose_alone
from backend.engines.base import Sampling
from backend.engines.client import Endpoint, tls
from backend.engines.generator import Generator, Readiness
from backend.engines.relay.upstream import Upstream, list_models
from backend.engines.relay.vllm_command import PROGRAM, command, environment, lora_name, lora_words, memory_share
from backend.engines.serve import serve
from backend.errors import CriaError, EngineError
from backend.hardware import probe
from backend.text import Message
from backend.weights.adapter import open_adapter

POLL_S = 0.5
SILENCE_S = 300.0
READY_S = 3600.0  # a large model over a network, compiled: long, but not for ever
LOOK_S = 5.0
GIVEN_UP_AFTER_S = 120.0  # without an answer about its health; compiling a batch of a new size can take a while


def load(readiness: Readiness) -> Generator:
    """Start vLLM and wait until it answers; what it prints goes to this process's log.

    Raises:
        UsageError: it is not installed.
        WeightsError: an adapter cannot be opened.
        EngineError: it ended before it was ready.
    """
    options, folder = readiness.options, readiness.folder
    port, key = _free_port(), secrets.token_urlsafe(32)
    ranks = [open_adapter(Path(lora.folder)).rank for lora in options.loras]
    words = command(find_program(PROGRAM), folder, options, port=port)
    words += lora_words(folder, options.loras, max(ranks, default=0))
    if options.max_gpu_memory:
        sizes = [gpu.total_bytes for gpu in probe(folder).gpus if gpu.total_bytes]
        words += memory_share(options.max_gpu_memory, min(sizes, default=0))
    child = subprocess.Popen(words, env=environment(os.environ, key), stdin=subprocess.DEVNULL, stdout=2)

    def model(sampling: Sampling) -> str:
        chosen = choose_alone(options.loras, sampling)
        return folder.name if chosen is None else lora_name(folder, chosen)

    def fault() -> CriaError | None:
        code = child.poll()
        return None if code is None else EngineError("engine.died", code=code, log="")

    endpoint = Endpoint(f"http://127.0.0.1:{port}", key, folder.name, silence_s=SILENCE_S)
    wait_until_healthy(endpoint, fault)
    life = Life(endpoint, fault)
    threading.Thread(target=life.follow, name="vllm-life", daemon=True).start()
    context = next((one.context for one in list_models(endpoint) if one.name == folder.name), 0)
    gpus = len(options.gpus) or options.num_gpus or 1
    placement = Message("remote.vllm", {"count": gpus})
    return Upstream(endpoint, context=context, placement=placement, fault=life.fault, model_of=model)


def wait_until_healthy(endpoint: Endpoint, fault: Callable[[], CriaError | None], most_s: float = READY_S) -> None:
    """Wait until it says that it is well.

    Raises:
        EngineError: what ``fault`` says; ``hard.vllm_late`` when it is not ready after ``most_s`` seconds.
    """
    end = time.monotonic() + most_s
    with _client(endpoint) as client:
        while (problem := fault()) is None:
            if is_healthy(client):
                return
            if time.monotonic() > end:
                raise EngineError("hard.vllm_late", seconds=most_s)
            time.sleep(POLL_S)
    raise problem


class Life:
    """Asks again and again whether it still lives: its process may be there and answer nobody any more."""

    def __init__(
        self, endpoint: Endpoint, fault: Callable[[], CriaError | None], most_s: float = GIVEN_UP_AFTER_S
    ) -> None:
        self._endpoint, self._died, self._most_s = endpoint, fault, most_s
        self._heard = time.monotonic()

    def fault(self) -> CriaError | None:
        """Return why it can answer no more; None while all is well."""
        silent = time.monotonic() - self._heard > self._most_s
        return self._died() or (EngineError("hard.vllm_silent", seconds=self._most_s) if silent else None)

    def follow(self, every_s: float = LOOK_S) -> None:
        """Look until there is a fault."""
        with _client(self._endpoint) as client:
            while self.fault() is None:
                if is_healthy(client):
                    self._heard = time.monotonic()
                time.sleep(every_s)


def is_healthy(client: httpx.Client) -> bool:
    """Tell whether a server says of itself that it is well. Its words do not matter, so they are not read."""
    with contextlib.suppress(httpx.HTTPError), client.stream("GET", "/health") as response:
        return response.status_code == httpx.codes.OK
    return False


def _client(endpoint: Endpoint) -> httpx.Client:
    return httpx.Client(base_url=endpoint.url, timeout=5.0, trust_env=False, verify=tls(endpoint.url))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    serve(load)
