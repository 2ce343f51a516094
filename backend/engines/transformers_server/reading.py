"""Weights into a model: transformers builds it, Cria's own reader brings each tensor when it is asked for.

Files, names and shapes were checked before; the configuration is built from checked sizes; nothing is unpickled and no
index leads out of the folder. Missing tensors, which transformers would fill with noise, are errors. Knows nothing
about where a model goes or what computes with it.
"""

import threading
from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from backend.engines.base import EngineOptions
from backend.engines.generator import Readiness
from backend.engines.transformers_server import other_kinds
from backend.engines.transformers_server.placement import Placement
from backend.engines.transformers_server.quantise import quantisation, spare_odd_shapes
from backend.errors import WeightsError
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.shape import ModelShape

_VIEW_AS = {"BF16": torch.bfloat16}


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


class ReadBytes:
    """Counts the bytes of weights that were really read."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Note bytes read; several threads read."""
        with self._lock:
            self._readiness.loaded_bytes += count


class Lazy:
    """A tensor of the checkpoint in the shape transformers' loader wants: read when it is indexed."""

    def __init__(self, tensor: Tensor, progress: ReadBytes) -> None:
        self._tensor, self._progress = tensor, progress

    def get_dtype(self) -> str:
        """Return the number format, in safetensors' words."""
        return self._tensor.dtype

    def __getitem__(self, _: Any) -> torch.Tensor:
        array = self._tensor.array()
        self._progress.add(array.nbytes)
        tensor = torch.from_numpy(array)
        dtype = _VIEW_AS.get(self._tensor.dtype)
        return tensor if dtype is None else tensor.view(dtype)


def load_model(
    checkpoint: Checkpoint,
    options: EngineOptions,
    placement: Placement,
    progress: ReadBytes,
    quantised: Mapping[str, Tensor] | None = None,
) -> Any:
    """Return the model on its device, weights read tensor by tensor; from ``quantised``, where those are kept.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape.
    """
    tensors = checkpoint if quantised is None else quantised
    state: Mapping[str, Lazy] = {name: Lazy(tensor, progress) for name, tensor in tensors.items()}
    dtype, shape = getattr(torch, placement.dtype), checkpoint.shape
    if isinstance(shape, ModelShape):
        model_class, config = LlamaForCausalLM, config_of(shape)
    else:
        model_class, config = other_kinds.model_of(shape)
    shrunk = quantisation(options.bits, dtype)
    if quantised is not None and shrunk is not None:  # how transformers is told that they are so already
        config.quantization_config, shrunk = shrunk.to_dict(), None
    model, found = model_class.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=dtype,
        device_map=_device_map(placement),
        max_memory=dict(placement.max_memory) or None,
        quantization_config=shrunk,
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
