"""From a model folder to something that answers: placement, weights read with real progress, a source of tokens.

Knows nothing about HTTP, or how tensors get from files into a model.
"""

import gc
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
import transformers

from backend.dimensions import Dimensions, Role, TensorShape, dimensions_from_config, stretches
from backend.engines.adapters import Attachable, open_loras
from backend.engines.allocator import freed_at_once
from backend.engines.base import EngineOptions
from backend.engines.folder import ModelFolder, open_folder, wanted_context
from backend.engines.generator import Generator, Readiness
from backend.engines.memory import is_out_of_memory
from backend.engines.transformers_server import other_kinds
from backend.engines.transformers_server.adapters import attach
from backend.engines.transformers_server.computing import token_source
from backend.engines.transformers_server.other_kinds import decoder_start
from backend.engines.transformers_server.placement import Machine, Need, Placement, Room, place
from backend.engines.transformers_server.quantised_store import (
    drop_store,
    open_store,
    store_bytes,
    sweep,
    write_store,
)
from backend.engines.transformers_server.reading import ReadBytes, load_model
from backend.engines.transformers_server.text_generator import TextGenerator
from backend.engines.transformers_server.tokenizer import load_tokenizer
from backend.engines.transformers_server.tokens import TokenSource
from backend.errors import EngineError, MachineError, WeightsError
from backend.fit.need import count, is_batched
from backend.ram import ram
from backend.text import Message
from backend.weights.as_is import AsIs
from backend.weights.checkpoint import Checkpoint
from backend.weights.shape import EMBED, HEAD, ModelShape, Shape

_Loaded = TypeVar("_Loaded")


def load(readiness: Readiness) -> Generator:
    """Load the folder that ``readiness`` names, reporting bytes there.

    Raises:
        WeightsError: the folder is not what it should be.
        MachineError: it does not fit.
    """
    _quiet()
    options = readiness.options
    folder = open_folder(readiness.folder)
    readiness.total_bytes = folder.checkpoint.nbytes
    wanted = wanted_context(folder, options.context)
    size = _dimensions(folder.checkpoint.shape)
    alone = size is None or not is_batched(size)
    loras = open_loras(folder.checkpoint, options.loras)
    need = need_of(folder.checkpoint, wanted)
    need = replace(need, others=need.others + sum(lora.numbers for lora in loras))
    placement = place(need, options, look_around(), alone=alone)
    tokenizer = load_tokenizer(folder)
    need = replace(need_of(folder.checkpoint, placement.context), others=need.others)
    source, not_kept = _or_anew(
        partial(_source, folder, placement, readiness=readiness, need=need, loras=loras),
        partial(drop_store, folder, options.bits, placement.dtype),
    )
    return TextGenerator(
        tokenizer,
        source,
        eos=folder.eos,
        stops=folder.stops,
        context=placement.context,
        placement=placement.message,
        note=_note(
            placement,
            options,
            wanted=wanted,
            template=bool(tokenizer.chat_template),
            more=not_kept or _waits(source, placement),
        ),
    )


def _or_anew(load: Callable[[], _Loaded], drop: Callable[[], bool]) -> _Loaded:
    """Return what ``load`` does. Should it fail and ``drop`` find quantised weights that were kept, once more without
    those: nobody knows what a disk made of them, and the model's own files are there.
    """
    try:
        return load()
    except (EngineError, WeightsError, RuntimeError, ValueError) as problem:
        if is_out_of_memory(problem) or not drop():
            raise
        traceback.print_exc()  # for the log
    gc.collect()  # out here nothing holds the failed model any more
    return load()


def _source(
    folder: ModelFolder, placement: Placement, *, readiness: Readiness, need: Need, loras: Sequence[Attachable]
) -> tuple[TokenSource, Message | None]:
    """Return what computes, and why quantised weights were not kept where somebody wanted them to be."""
    options, shape = readiness.options, folder.checkpoint.shape
    readiness.loaded_bytes, readiness.total_bytes = 0, folder.checkpoint.nbytes
    with freed_at_once():
        model, not_kept = _model(folder, placement, readiness)
        adapters = attach(model, options.loras, loras, getattr(torch, placement.dtype)) if loras else None
    size, start = _dimensions(shape), decoder_start(shape)
    source = token_source(
        model,
        need,
        placement,
        eos=folder.eos,
        bos=shape.bos or 0,
        start=start,
        adapters=adapters,
        keeps=size is not None and start is None and not size.stretches,
    )
    return source, not_kept


def _model(folder: ModelFolder, placement: Placement, readiness: Readiness) -> tuple[Any, Message | None]:
    """Return the loaded model, and why its quantised weights were not kept where somebody wanted them to be."""
    options = readiness.options
    progress = ReadBytes(readiness)
    sweep(folder)
    if options.bits == 16:
        return load_model(folder.checkpoint, options, placement, progress), None
    kept = open_store(folder, options.bits, placement.dtype)
    if kept is not None:
        readiness.total_bytes = sum(tensor.nbytes for tensor in kept.values())
    model = load_model(folder.checkpoint, options, placement, progress, kept)
    return model, None if kept is not None or not options.keep_quantised else _keep(model, folder, placement, readiness)


def _keep(model: Any, folder: ModelFolder, placement: Placement, readiness: Readiness) -> Message | None:
    """Keep the quantised weights; a model that is loaded is not given up because that cannot be done."""

    def report(done: int, total: int) -> None:
        readiness.loaded_bytes, readiness.total_bytes = done, total

    try:
        readiness.note = Message("quantised.keeping", {"bytes": store_bytes(model, folder.checkpoint)})
        write_store(model, folder, bits=readiness.options.bits, dtype=placement.dtype, report=report)
    except MachineError as problem:
        if problem.key == "weights.disk_full":
            return Message("quantised.note.no_room", {name: problem.params[name] for name in ("needed", "free")})
        return Message("quantised.note.not_written", {"what": str(problem.params.get("what"))[:200]})
    except WeightsError as problem:
        return Message("quantised.note.not_written", {"what": str(problem.params.get("name", problem.key))[:200]})
    finally:
        readiness.note = None
    return None


def look_around() -> Machine:
    """Return the memory that is free now, on every GPU that this process sees and in RAM."""
    rooms = []
    for index in range(torch.cuda.device_count()):
        free, _ = torch.cuda.mem_get_info(index)
        major, _ = torch.cuda.get_device_capability(index)
        rooms.append(Room(index, torch.cuda.get_device_name(index), free, bf16=major >= 8))
    return Machine(ram().free or 0, tuple(rooms), torch.backends.mps.is_available())


def need_of(checkpoint: Checkpoint, context: int) -> Need:
    """Return a model in numbers: the tensors that are really there, and what its dimensions say of the rest."""
    size = _dimensions(checkpoint.shape)
    if size is None:  # a config.json with something odd in it: what the loader makes of it is known only then
        matrices = sum(tensor.count for tensor in _tensors(checkpoint) if tensor.role is Role.MATRIX)
        return Need(matrices, checkpoint.parameters - matrices, other_kinds.cache_per_token(checkpoint.shape), context)
    return count(size, ((tensor, 1) for tensor in _tensors(checkpoint)), context)


def _tensors(checkpoint: Checkpoint) -> Iterator[TensorShape]:
    """Yield the tensors, with their roles: quantisation shrinks the matrices of the layers alone."""
    for name, tensor in checkpoint.items():
        matrix = len(tensor.shape) == 2 and name not in (EMBED, HEAD, "shared.weight") and "bias" not in name
        yield TensorShape(name, tensor.shape, Role.MATRIX if matrix else Role.VECTOR)


def _dimensions(shape: Shape) -> Dimensions | None:
    if isinstance(shape, ModelShape):
        return Dimensions(
            kind="llama",
            vocab=shape.vocab,
            hidden=shape.hidden,
            layers=shape.layers,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            ffn=shape.ffn,
            context=shape.max_positions,
            stretches=stretches(shape.rope_scaling),
        )
    return dimensions_from_config(shape.config) if isinstance(shape, AsIs) else None


def _waits(source: TokenSource, placement: Placement) -> Message | None:
    """Say why one reply is computed at a time, if that is so."""
    if source.slots > 1:
        return None
    if len(placement.gpus) > 1:
        return Message("engine.note.one_at_a_time")
    return Message("quantised.note.mps" if placement.device == "mps" else "finish.found.one_at_a_time")


def _note(
    placement: Placement, options: EngineOptions, *, wanted: int, template: bool, more: Message | None
) -> Message | None:
    """Return the one thing most worth saying about how it was loaded."""
    if not template:
        return Message("engine.note.no_template")
    if placement.context < wanted:
        return Message("engine.note.shorter_context", {"context": placement.context, "wanted": wanted})
    if more:
        return more
    if options.bits != 16 and placement.device == "cpu":
        return Message("engine.note.bits_on_cpu", {"bits": options.bits})
    return None


def _quiet() -> None:
    """Keep the log for what matters: bitsandbytes remarks on every matrix of every step."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_warning()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.captureWarnings(True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
