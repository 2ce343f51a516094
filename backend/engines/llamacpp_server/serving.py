"""llama.cpp's server in this process, over a GGUF file: started, and asked for one token before anybody else asks.

It insists on a server of its own beside the calls used here: a socket in a private folder, behind a key that nobody
else has. Knows nothing about model folders or what is said of them.
"""

import json
import math
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Protocol

import psutil

from backend.engines.generator import Readiness
from backend.engines.llamacpp_server.sizes import Room, padded
from backend.errors import EngineError
from backend.text import Message

BATCH = 128  # tokens of prompt computed in one step: how long a stop can take, and others wait, at most
FIRST_TOKEN_S = 300.0  # as long as a running engine may take for a step (``pulse.STALLED_AFTER_S``)
# Bytes that one core reads in some 4 milliseconds. With other programs on two cores, the demo (5 MB) was computed at
# 2950 tokens a second by one thread, at 5 to 1180 by two.
SMALL = 100_000_000
_ASK_S = 60.0  # three million characters take five seconds
_PORTION = 8_000_000  # bytes
_ERRORS_ONLY = 1  # common/log.h: LOG_LEVEL_ERROR
_PLACE = re.compile(r"cria-llama-(\d+)-\w+")


class Server(Protocol):
    """What is used of ``xllamacpp.Server``: calls back with each chunk until that returns True; raises nothing."""

    def handle_completions(self, request: Mapping[str, Any], callback: Callable[[Any], bool], /) -> Any:
        """Answer one request."""
        ...


class Door:
    """The way in to llama.cpp's own server: a socket in a private folder, and the key. Thread-safe."""

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self._place = tempfile.TemporaryDirectory(prefix=f"cria-llama-{os.getpid()}-")
        self.key = secrets.token_urlsafe(32)
        self.path = f"{self._place.name}/llama.sock"  # by the ending llama.cpp knows that it is no address
        self.copies = Path(self._place.name)  # where llama.cpp writes what a slot holds

    def ask(self, what: str, body: Mapping[str, Any], *, patience_s: float = _ASK_S) -> dict[str, Any]:
        """Return the answer to a request, if it comes in time.

        Raises:
            EngineError: there is none.
        """
        door = _Unix(self.path, patience_s)
        try:
            text = json.dumps(body).encode("ascii")
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            door.request("POST", what, text, headers)
            reply = door.getresponse()
            found = json.loads(reply.read())
        except (OSError, HTTPException, ValueError) as problem:
            raise EngineError("engine.computation_failed", what=str(problem)[:300]) from problem
        finally:
            door.close()
        if reply.status != 200 or not isinstance(found, dict):
            raise EngineError("engine.computation_failed", what=f"{what}: {reply.status}")
        return found

    def close(self) -> None:
        """Nobody comes in any more."""
        self._place.cleanup()


class _Unix(HTTPConnection):
    def __init__(self, path: str, patience_s: float) -> None:
        super().__init__("localhost", timeout=patience_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def tidy() -> None:
    """Remove the places of this process, which ends: what people said may lie there."""
    _sweep(Path(tempfile.gettempdir()), own=True)


def _sweep(folder: Path, *, own: bool = False) -> None:
    """Remove the places of processes that were killed, or this one's ``own``."""
    for place in folder.glob("cria-llama-*"):
        owner = _PLACE.fullmatch(place.name)
        if owner and (int(owner[1]) == os.getpid() if own else not psutil.pid_exists(int(owner[1]))):
            shutil.rmtree(place, ignore_errors=True)


def threads(weights: int) -> int:
    """Return how many threads to compute ``weights`` bytes with: the cores this process may use, not their siblings,
    which would only wait. One for a small model: several would spend more time on waiting for each other."""
    if weights < SMALL:
        return 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def read_ahead(paths: Sequence[Path], readiness: Readiness) -> None:
    """Bring files into memory, with progress. llama.cpp maps them, and opening them lets no other thread of this
    process run: whoever asks how loading goes would get no answer while the disk is read."""
    readiness.loaded_bytes, readiness.total_bytes = 0, sum(path.stat().st_size for path in paths)
    part = bytearray(_PORTION)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(part):
                readiness.loaded_bytes += count


def start_server(
    path: Path, room: Room, loras: Sequence[Path] = (), *, door: Door | None = None, weights: int = 0
) -> Server:
    """Start llama.cpp's server over a file. ``door``: where it may be asked more than it is for replies; ``weights``:
    bytes of all files, where ``path`` is the first of several.

    Raises:
        EngineError: llama.cpp refused the file.
    """
    import xllamacpp

    own = door or Door()
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = room.slots
    params.n_ctx = room.slots * padded(room.context)
    params.n_batch = params.n_ubatch = BATCH
    # Layers with a window keep the whole conversation too: then a reply that is asked for again, or edited, goes on
    # from what is there instead of reading everything anew.
    params.swa_full = True
    params.n_ctx_checkpoints = 0  # which is what copies of those layers would be for
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads(weights or path.stat().st_size)
    params.fit_params = False  # room is decided above
    params.warmup = False  # it would hold the interpreter; the first token warms up as well
    params.cache_ram_mib = 0  # no second store of earlier conversations (``copies`` has its own, in files)
    params.use_jinja = False  # templates are rendered here, not there
    params.chat_template = "chatml"  # else it parses the file's own, and refuses the file over what it does not know
    params.ui = params.endpoint_slots = False
    params.api_keys = [own.key]
    params.n_threads_http = 2  # one may wait until a slot has been copied
    params.slot_save_path = f"{own.copies}/"
    params.verbosity = _ERRORS_ONLY
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 0.0) for lora in loras]
    params.lora_init_without_apply = True  # each request says how strong it wants them
    if os.name == "posix":
        params.hostnames = [own.path]
    try:
        server: Server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as problem:
        raise EngineError("gguf.refused", file=path.name, what=str(problem)[:200]) from problem
    finally:
        if door is None:
            own.close()
    return server


def check_numbers(server: Server, token: int) -> None:
    """Compute one token, so that what cannot compute fails here and not in somebody's first reply.

    Raises:
        EngineError: it failed, its scores are no numbers, or it took longer than any machine should.
    """
    seen: list[Any] = []

    def take(data: Any) -> bool:
        seen.append(data)
        return False

    def ask() -> None:
        try:
            server.handle_completions(request, take)
        except Exception as problem:  # noqa: BLE001 - the end of a thread; whoever waits for it reads this
            seen.append({"error": {"message": str(problem)}})

    request = {"prompt": [token], "n_predict": 1, "max_tokens": 1, "temperature": 0.0, "n_probs": 1, "stream": True}
    asking = threading.Thread(target=ask, name="first token", daemon=True)
    asking.start()
    asking.join(FIRST_TOKEN_S)
    if asking.is_alive():
        raise EngineError("engine.not_in_time", seconds=FIRST_TOKEN_S)
    failed = next((data["error"] for data in seen if "error" in data), None)
    if failed is not None:
        raise EngineError("engine.computation_failed", what=str(failed.get("message"))[:300])
    found = [data["choices"][0].get("logprobs") for data in seen]
    likely = [entry.get("logprob") for part in found if part for entry in part["content"]]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in likely):
        raise EngineError("engine.not_numbers")


def remark(room: Room, wanted: int, whole: int, *, template: bool) -> Message | None:
    """Return the one thing most worth saying about how it was loaded."""
    if not template:
        return Message("engine.note.no_template")
    if room.context < wanted:
        return Message("engine.note.shorter_context", {"context": room.context, "wanted": wanted})
    if wanted < whole:
        return Message("gguf.shorter", {"context": wanted, "wanted": whole})
    return None
