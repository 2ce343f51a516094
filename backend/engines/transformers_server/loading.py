"""From a model folder to something that answers: placement, weights read with real progress, a source of tokens.

Weights come through Cria's own reader, so files, names and shapes are checked before memory is taken, nothing is
unpickled and no index leads out of the folder; the configuration is built from checked sizes. Missing tensors, which
transformers would fill with noise, are errors. Knows nothing about HTTP.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from backend.dimensions import Dimensions, Role, TensorShape, dimensions_from_config
from backend.engines.base import EngineOptions, Sampling
from backend.engines.folder import ModelFolder, open_folder, wanted_context
from backend.engines.generator import Generator, Readiness
from backend.engines.transformers_server import other_kinds
from backend.engines.transformers_server.allocator import freed_at_once
from backend.engines.transformers_server.batching import BatchedTokens
from backend.engines.transformers_server.one_at_a_time import SingleTokens
from backend.engines.transformers_server.other_kinds import decoder_start
from backend.engines.transformers_server.placement import Machine, Need, Placement, Room, place
from backend.engines.transformers_server.quantise import quantisation, spare_odd_shapes
from backend.engines.transformers_server.text_generator import TextGenerator
from backend.engines.transformers_server.tokenizer import load_tokenizer
from backend.engines.transformers_server.tokens import TokenSource
from backend.errors import CriaError, WeightsError
from backend.fit.need import count, pages
from backend.text import Message
from backend.weights.as_is import AsIs
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.shape import EMBED, HEAD, ModelShape, Shape

_VIEW_AS = {"BF16": torch.bfloat16}


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
    shape = folder.checkpoint.shape
    alone = not isinstance(shape, ModelShape)
    placement = place(need_of(folder.checkpoint, wanted), options, look_around(), alone=alone)
    tokenizer = load_tokenizer(folder)
    with freed_at_once():
        model = load_model(folder.checkpoint, options, placement, _Progress(readiness))
    single = len(placement.gpus) > 1 or alone
    start = decoder_start(shape)
    source: TokenSource = (
        SingleTokens(model, eos=folder.eos, start=start) if single else _batched(model, folder, placement)
    )
    asyncio.run(_first_token(source, shape.bos or 0))
    return TextGenerator(
        tokenizer,
        source,
        eos=folder.eos,
        stops=folder.stops,
        context=placement.context,
        placement=placement.message,
        note=_note(
            placement, options, wanted=wanted, template=bool(tokenizer.chat_template), waits=_waits(shape, placement)
        ),
    )


def look_around() -> Machine:
    """Return the memory that is free now, on every GPU that this process sees and in RAM."""
    rooms = []
    for index in range(torch.cuda.device_count()):
        free, _ = torch.cuda.mem_get_info(index)
        major, _ = torch.cuda.get_device_capability(index)
        rooms.append(Room(index, torch.cuda.get_device_name(index), free, bf16=major >= 8))
    return Machine(psutil.virtual_memory().available, tuple(rooms), torch.backends.mps.is_available())


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
        )
    return dimensions_from_config(shape.config) if isinstance(shape, AsIs) else None


def config_of(shape: ModelShape, eos: tuple[int, ...] = ()) -> LlamaConfig:
    """Build the configuration from checked sizes; nothing of a foreign config.json gets any further than those."""
    rope = {"rope_type": "default", **(shape.rope_scaling or {}), "rope_theta": shape.rope_theta}
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=shape.norm_eps,
        rope_parameters=rope,
        tie_word_embeddings=shape.tie,
        attention_bias=shape.attention_bias,
        mlp_bias=shape.mlp_bias,
        bos_token_id=shape.bos,
        eos_token_id=list(eos) or None,
    )


class _Progress:
    """Counts the bytes of weights that were really read."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Note bytes read; several threads read."""
        with self._lock:
            self._readiness.loaded_bytes += count


class _Lazy:
    """A tensor of the checkpoint in the shape transformers' loader wants: read when it is indexed."""

    def __init__(self, tensor: Tensor, progress: _Progress) -> None:
        self._tensor, self._progress = tensor, progress

    def __getitem__(self, _: Any) -> torch.Tensor:
        array = self._tensor.array()
        self._progress.add(array.nbytes)
        tensor = torch.from_numpy(array)
        dtype = _VIEW_AS.get(self._tensor.dtype)
        return tensor if dtype is None else tensor.view(dtype)


def load_model(checkpoint: Checkpoint, options: EngineOptions, placement: Placement, progress: _Progress) -> Any:
    """Return the model on its device, weights read tensor by tensor.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape.
    """
    state: Mapping[str, _Lazy] = {name: _Lazy(tensor, progress) for name, tensor in checkpoint.items()}
    dtype, shape = getattr(torch, placement.dtype), checkpoint.shape
    if isinstance(shape, ModelShape):
        model_class, config = LlamaForCausalLM, config_of(shape)
    else:
        model_class, config = other_kinds.model_of(shape)
    model, found = model_class.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=dtype,
        device_map=_device_map(placement),
        max_memory=dict(placement.max_memory) or None,
        quantization_config=quantisation(options.bits, dtype),
        attn_implementation=other_kinds.attention(shape),
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if found.get(key):
            raise WeightsError("engine.tensors_differ", kind=key, names=", ".join(sorted(map(str, found[key]))[:5]))
    if options.bits == 4:
        spare_odd_shapes(model)
    return model


def _device_map(placement: Placement) -> str | dict[str, Any]:
    if len(placement.gpus) > 1:
        return "balanced"
    return {"": placement.gpus[0] if placement.gpus else placement.device}


def _batched(model: Any, folder: ModelFolder, placement: Placement) -> BatchedTokens:
    need, batching = need_of(folder.checkpoint, placement.context), placement.batching
    taken = pages(
        placement.context,
        placement.cache_room,
        need.token(placement.dtype, batching),
        conversations=batching.conversations,
    )
    return BatchedTokens(model, eos=folder.eos, pages=taken, chunk=batching.chunk)


async def _first_token(source: TokenSource, token: int) -> None:
    """Compute one token, so that what cannot compute fails here and not in somebody's first reply."""
    try:
        async for _ in source.stream([token], Sampling(temperature=0.0), 1):
            pass
    except CriaError:
        source.close()
        raise


def _waits(shape: Shape, placement: Placement) -> Message | None:
    """Say why one reply is computed at a time, if that is so."""
    if not isinstance(shape, ModelShape):
        return Message("finish.found.one_at_a_time")
    return Message("engine.note.one_at_a_time") if len(placement.gpus) > 1 else None


def _note(
    placement: Placement, options: EngineOptions, *, wanted: int, template: bool, waits: Message | None
) -> Message | None:
    """Return the one thing most worth saying about how it was loaded."""
    if not template:
        return Message("engine.note.no_template")
    if placement.context < wanted:
        return Message("engine.note.shorter_context", {"context": placement.context, "wanted": wanted})
    if waits:
        return waits
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
