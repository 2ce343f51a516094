"""Which engine computes when nobody chose one: llama.cpp on a CPU, transformers on a GPU and for everything else.

Measured with a 1.1B-shaped model on two cores, bitsandbytes answers with 0.6 tokens a second in 8-bit, llama.cpp with
20; so 8-bit and 4-bit on a CPU mean llama.cpp's. Knows nothing about processes.
"""

import importlib.util
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

from backend.engines import AUTO, ENGINES, USUAL
from backend.engines.adapters import change_words
from backend.engines.base import EngineOptions
from backend.engines.folder import ModelFolder, open_folder
from backend.errors import WeightsError
from backend.hardware import Hardware
from backend.library import CONVERTED
from backend.storage import free_bytes
from backend.text import Message
from backend.weights.gguf_kinds import check_convertible
from backend.weights.gguf_layout import converted_bytes
from backend.weights.gguf_ready import holds_ready
from backend.weights.gguf_vocabulary import MOST_ENDS, can_express

ON_CPU = "llamacpp"
KIND_OF_BITS = {16: "f16", 8: "q8_0", 4: "q4_k"}
_UNKNOWN = "gguf.instead.kind"
_INSTEAD = {  # what is said of an error; of every other, that llama.cpp does not know this kind of model
    "gguf.rope": "gguf.instead.rope",
    "gguf.setting": "gguf.instead.setting",
    "weights.tensor_missing": "gguf.instead.tensor",
    "weights.tensor_shape": "gguf.instead.tensor",
    "weights.tensor_unknown": "gguf.instead.tensor",
}
_SPARE = 2_000_000_000  # bytes of disk that are left alone
_FLAGS = frozenset(("avx2", "fma", "f16c", "bmi2"))  # what the wheel was built for
_CPUINFO = Path("/proc/cpuinfo")


def choose_engine(options: EngineOptions, machine: Hardware, folder: Path) -> tuple[EngineOptions, Message | None]:
    """Return the options with the engine that computes, and why it is not the fastest one where that is worth saying.

    What cannot be loaded at all gets the usual engine; that one says why. A ready-made GGUF file is llama.cpp's alone.
    """
    if options.engine != AUTO:
        return options, None
    if holds_ready(folder):
        return replace(options, engine=ON_CPU), None
    usual = replace(options, engine=USUAL)
    wants_gpu = options.device in ("cuda", "mps") or options.num_gpus or options.gpus or options.max_gpu_memory
    has_gpu = options.device == "auto" and (machine.gpus or machine.mps)
    if wants_gpu or has_gpu or options.dtype in ("float32", "bfloat16"):
        return usual, None
    try:
        opened = open_folder(folder)
    except WeightsError:
        return usual, None
    why = _why_not(opened, options)
    return (usual, why) if why else (replace(options, engine=ON_CPU), None)


def _why_not(folder: ModelFolder, options: EngineOptions) -> Message | None:
    """Return what keeps llama.cpp from computing this model here."""
    bits = options.bits
    if any(importlib.util.find_spec(package) is None for package in ENGINES[ON_CPU].packages):
        return Message("gguf.instead.missing")
    if not has_instructions():
        return Message("gguf.instead.processor")
    try:
        form = check_convertible(folder.checkpoint)
    except WeightsError as problem:
        return Message(_INSTEAD.get(problem.key, _UNKNOWN), problem.params)
    if form.size.tie and change_words(options.loras):
        return Message("gguf.instead.tied")
    if options.context > form.longest:
        return Message("gguf.instead.context", {"most": form.longest})
    if len(folder.eos) > MOST_ENDS:
        return Message("gguf.instead.ends")
    if not can_express(folder.path):
        return Message("gguf.instead.tokenizer")
    place = folder.path / CONVERTED
    if any(place.glob(f"{KIND_OF_BITS[bits]}-*.gguf")):
        return None  # made before; if it is out of date, its room becomes free
    if not os.access(folder.path, os.W_OK):
        return Message("gguf.instead.writable")
    need, free = converted_bytes(folder.checkpoint, KIND_OF_BITS[bits]) + _SPARE, free_bytes(folder.path)
    return Message("gguf.instead.room", {"need": need, "free": free}) if need > free else None


@cache
def has_instructions() -> bool:
    """Tell whether the processor has the instructions llama.cpp's build uses; elsewhere than on x86 every one has."""
    try:
        text = _CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), None)
    return flags is None or set(flags) >= _FLAGS
