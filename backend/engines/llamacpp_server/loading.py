"""From a model folder to something that answers: a GGUF file made once, room for conversations, llama.cpp's server.

Knows nothing about HTTP. llama.cpp insists on a server of its own beside the calls used here: it gets a socket in a
private folder that is gone a moment later, and a key that nobody has.
"""

import math
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

import psutil

from backend.engines.choice import KIND_OF_BITS
from backend.engines.folder import open_folder, wanted_context
from backend.engines.generator import Generator, Readiness
from backend.engines.llamacpp_server.completions import Completions, Server
from backend.engines.llamacpp_server.generator import LlamaGenerator
from backend.engines.llamacpp_server.sizes import Room, fit_room, padded
from backend.engines.llamacpp_server.store import make_gguf
from backend.errors import EngineError
from backend.events import Progress
from backend.text import Message
from backend.weights.gguf_layout import check_convertible
from backend.weights.shape import ModelShape

BATCH = 128  # tokens of prompt computed in one step: how long a stop can take, and others wait, at most
_CACHE_ITEM = 2  # bytes; keys and values are kept in float16
_PORTION = 8_000_000  # bytes
_ERRORS_ONLY = 1  # common/log.h: LOG_LEVEL_ERROR


def load(readiness: Readiness) -> Generator:
    """Load the folder that ``readiness`` names, reporting bytes there: of making the file, if that has to be done.

    Raises:
        WeightsError: the folder is not what it should be, or not a model llama.cpp can compute.
        MachineError: it does not fit into memory or onto the disk.
        EngineError: llama.cpp refused it.
    """
    from backend.engines.transformers_server.tokenizer import load_tokenizer

    options = readiness.options
    folder = open_folder(readiness.folder)
    shape = check_convertible(folder.checkpoint)
    wanted = wanted_context(folder, options.context)
    kind = KIND_OF_BITS[options.bits]
    readiness.total_bytes = folder.checkpoint.nbytes

    def report(progress: Progress) -> None:
        readiness.note, readiness.loaded_bytes, readiness.total_bytes = progress.note, progress.done, progress.total

    tokenizer = load_tokenizer(folder)
    path = make_gguf(folder, kind, report)
    readiness.note = None
    free = psutil.virtual_memory().available
    room = fit_room(path.stat().st_size, cache_per_token(shape), free, wanted=wanted, asked=bool(options.context))
    _read_ahead(path, readiness)
    server = _serve(path, room)
    _check_numbers(server, shape.bos or 0)
    return LlamaGenerator(
        tokenizer,
        Completions(server),
        stops=folder.stops,
        context=room.context,
        slots=room.slots,
        placement=Message("gguf.placement", {"kind": kind.upper()}),
        note=_note(room, wanted, template=bool(tokenizer.chat_template)),
    )


def cache_per_token(shape: ModelShape) -> int:
    """Return the bytes of keys and values that one token of context keeps."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * _CACHE_ITEM


def threads() -> int:
    """Return how many threads to compute with: the cores this process may use; their siblings would only wait."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _read_ahead(path: Path, readiness: Readiness) -> None:
    """Bring the file into memory, with progress. llama.cpp maps it, and opening it lets no other thread of this process
    run: whoever asks how loading goes would get no answer while the disk is read."""
    readiness.loaded_bytes, readiness.total_bytes = 0, path.stat().st_size
    part = bytearray(_PORTION)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(part):
            readiness.loaded_bytes += count


def _serve(path: Path, room: Room) -> Server:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = room.slots
    params.n_ctx = room.slots * padded(room.context)
    params.n_batch = params.n_ubatch = BATCH
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads()
    params.fit_params = False  # room is decided above
    params.warmup = False  # it would hold the interpreter; the first token warms up as well
    params.cache_ram_mib = 0  # no second store of earlier conversations: memory stays what was counted
    params.use_jinja = False  # templates are rendered here, not there
    params.ui = params.endpoint_slots = False
    params.api_keys = [secrets.token_urlsafe(32)]
    params.n_threads_http = 1
    params.verbosity = _ERRORS_ONLY
    with tempfile.TemporaryDirectory(prefix="cria-llama-") as place:
        if os.name == "posix":
            params.hostnames = [f"{place}/unused.sock"]
        try:
            server: Server = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as problem:
            raise EngineError("gguf.refused", file=path.name, what=str(problem)[:200]) from problem
    return server


def _check_numbers(server: Server, token: int) -> None:
    """Compute one token, so that what cannot compute fails here and not in somebody's first reply."""
    seen: list[Any] = []

    def take(data: Any) -> bool:
        seen.append(data)
        return False

    request = {"prompt": [token], "n_predict": 1, "max_tokens": 1, "temperature": 0.0, "n_probs": 1, "stream": True}
    server.handle_completions(request, take)
    failed = next((data["error"] for data in seen if "error" in data), None)
    if failed is not None:
        raise EngineError("engine.computation_failed", what=str(failed.get("message"))[:300])
    found = [data["choices"][0].get("logprobs") for data in seen]
    likely = [entry.get("logprob") for part in found if part for entry in part["content"]]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in likely):
        raise EngineError("engine.not_numbers")


def _note(room: Room, wanted: int, *, template: bool) -> Message | None:
    """Return the one thing most worth saying about how it was loaded."""
    if not template:
        return Message("engine.note.no_template")
    if room.context < wanted:
        return Message("engine.note.shorter_context", {"context": room.context, "wanted": wanted})
    return None
