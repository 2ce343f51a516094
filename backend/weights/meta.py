"""Meta's raw layout (LLaMA 1, Llama 2, Llama 3.x): any number of ``consolidated.NN.pth`` shards and a params.json, read
as a checkpoint with Hugging Face names and head order.

Source of names, axes and formulas: meta-llama/llama, llama3 and llama-models (``model.py``, ``generation.py``).
Knows nothing about Hugging Face files.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.text import Message
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.disk import SourceFile, integer, read_json, source_file
from backend.weights.dtypes import CONFIG_NAMES, FLOATS
from backend.weights.join import halves_from_pairs, join_columns, join_rows, same_in_all
from backend.weights.shape import PARAMS, ModelShape, ffn_from_params, shape_from_params, unwrap_params
from backend.weights.torch_file import read_torch_file
from backend.weights.torch_zip import Record

_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_LAYER = re.compile(r"layers\.(\d{1,4})\.(.+)")
_EMBED, _OUTPUT, _ROPE = "tok_embeddings.weight", "output.weight", "rope.freqs"

_TOP: Mapping[str, str] = {
    _EMBED: "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    _OUTPUT: "lm_head.weight",
}
_IN_LAYER: Mapping[str, str] = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_CUT_ALONG_COLUMNS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
_HEADS_REORDERED = ("self_attn.q_proj.weight", "self_attn.k_proj.weight")


def is_meta(folder: Path) -> bool:
    """Tell whether a folder is laid out as Meta's."""
    return (folder / PARAMS).is_file() or any(_SHARD.fullmatch(path.name) for path in folder.glob("*.pth"))


def open_meta(folder: Path) -> Checkpoint:
    """Open a folder with params.json and consolidated.NN.pth shards.

    Raises:
        WeightsError: a shard is missing, surplus, truncated or of another model; params.json does not fit the tensors.
    """
    params = unwrap_params(read_json(folder / PARAMS))
    files = _shards(folder)
    shards, records = _read_shards(files)
    ffn, vocab = _rows(shards, "layers.0.feed_forward.w1.weight"), _vocabulary(shards, params)
    dtype = shards[0][_EMBED].dtype
    if dtype not in FLOATS:
        raise WeightsError("weights.dtype_unknown", name=_EMBED, dtype=dtype)
    shape = shape_from_params(params, ffn=ffn, vocab=vocab, dtype=dtype)
    notes = [Message("weights.found.meta", {"shards": len(files), "dtype": CONFIG_NAMES[dtype]})]
    formula = ffn_from_params(params)
    if formula != ffn:
        notes.append(Message("weights.found.ffn_differs", {"formula": formula, "rows": ffn}))
    return Checkpoint(
        kind="meta",
        folder=folder,
        tensors=_tensors(shards, shape),
        shape=shape,
        files=files,
        doing="weights.doing.convert",
        notes=tuple(notes),
        made_of=tuple(f"{file.path.name}:{file.bytes}:{file.path.stat().st_mtime_ns}" for file in files),
        checks=tuple(record.finish for record in records),
    )


def _shards(folder: Path) -> tuple[SourceFile, ...]:
    """Return the shard files in order: consecutive from 00, nothing missing and nothing else that ends in .pth."""
    names = sorted(path.name for path in folder.glob("*.pth"))
    strange = [name for name in names if not _SHARD.fullmatch(name)]
    if strange:
        raise WeightsError("weights.meta_surplus", file=strange[0], folder=str(folder))
    if not names:
        raise WeightsError("weights.meta_no_shards", folder=str(folder))
    for index, name in enumerate(names):
        if name != f"consolidated.{index:02d}.pth":
            raise WeightsError("weights.meta_gap", missing=f"consolidated.{index:02d}.pth", found=name)
    return tuple(source_file(folder / name) for name in names)


def _read_shards(files: Sequence[SourceFile]) -> tuple[list[dict[str, Tensor]], list[Record]]:
    shards: list[dict[str, Tensor]] = []
    records: list[Record] = []
    for file in files:
        tensors, kept = read_torch_file(file.path)
        tensors.pop(_ROPE, None)
        shards.append(tensors)
        records.extend(kept)
        if _EMBED not in tensors or "layers.0.feed_forward.w1.weight" not in tensors:
            raise WeightsError("weights.meta_not_llama", file=file.path.name, name=next(iter(tensors))[:120])
        unlike = next((name for name in tensors if not _alike(name, tensors, shards[0])), None)
        if unlike is not None or len(tensors) != len(shards[0]):
            name = unlike or next(iter(set(shards[0]) - set(tensors)))
            raise WeightsError("weights.shards_unlike", file=file.path.name, other=files[0].path.name, name=name[:120])
    return shards, records


def _alike(name: str, tensors: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> bool:
    """Tell whether a tensor is cut as in the first shard; the last one may hold a few output rows more (49953 / 2)."""
    if name not in first or first[name].dtype != tensors[name].dtype:
        return False
    skip = 1 if name == _OUTPUT else 0
    return first[name].shape[skip:] == tensors[name].shape[skip:]


def _rows(shards: Sequence[Mapping[str, Tensor]], name: str) -> int:
    return sum(shard[name].length for shard in shards)


def _vocabulary(shards: Sequence[Mapping[str, Tensor]], params: Mapping[str, Any]) -> int:
    """Return the number of embedding rows: LLaMA-1/2 cut embeddings along columns, Llama 3 along rows."""
    dim = integer(params, "dim", PARAMS)
    rows, columns = (*shards[0][_EMBED].shape, 0)[:2]
    if columns * len(shards) == dim:
        return rows
    if columns == dim:
        return rows * len(shards)
    raise WeightsError("weights.meta_shard_count", shards=len(shards), columns=columns, dim=dim)


def _tensors(shards: Sequence[Mapping[str, Tensor]], shape: ModelShape) -> dict[str, Tensor]:
    """Return every tensor of the model under its Hugging Face name, in the model's order."""
    meta_names = {_hf_name(name): name for name in shards[0]}
    tensors: dict[str, Tensor] = {}
    for name, wanted in shape.expected():
        if name not in meta_names:
            raise WeightsError("weights.tensor_missing", name=name)
        tensor = _joined([shard[meta_names[name]] for shard in shards], name, shape)
        if tensor.shape != wanted or tensor.dtype not in FLOATS:
            raise WeightsError(
                "weights.tensor_shape", name=name, found=str(list(tensor.shape)), expected=str(list(wanted))
            )
        tensors[name] = tensor
    left = sorted(set(meta_names) - set(tensors))
    if left:
        raise WeightsError("weights.tensor_unknown", name=meta_names[left[0]][:120], count=len(left))
    return tensors


def _hf_name(name: str) -> str:
    """Return the Hugging Face name of a Meta tensor; an unknown one keeps its own."""
    found = _LAYER.fullmatch(name)
    if found and found.group(2) in _IN_LAYER:
        return f"model.layers.{int(found.group(1))}.{_IN_LAYER[found.group(2)]}"
    return _TOP.get(name, name)


def _joined(parts: Sequence[Tensor], name: str, shape: ModelShape) -> Tensor:
    if len(parts[0].shape) == 1:
        return same_in_all(parts, name)
    by_columns = name.endswith(_CUT_ALONG_COLUMNS) or (
        name == _TOP[_EMBED] and parts[0].shape[1] * len(parts) == shape.hidden
    )
    if by_columns:
        return join_columns(parts)
    joined = join_rows(parts)
    if not name.endswith(_HEADS_REORDERED):
        return joined
    if joined.length % shape.head_dim or parts[0].length % shape.head_dim:
        raise WeightsError("weights.meta_heads_cut", name=name, shards=len(parts), kv_heads=shape.kv_heads)
    return halves_from_pairs(joined, shape.head_dim)
