"""Meta's raw layout (LLaMA 1, Llama 2, Code Llama, Llama 3.x): any number of ``consolidated.NN.pth`` shards and a
params.json, read as a checkpoint with Hugging Face names and head order.

Source of axes: meta-llama/llama, llama3 and llama-models (``model.py``, ``generation.py``). Knows nothing about Hugging
Face files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.text import Message, Value
from backend.weights.checkpoint import SLAB_BYTES, Checkpoint, Tensor
from backend.weights.disk import SourceFile, label
from backend.weights.dtypes import CONFIG_NAMES, FLOATS
from backend.weights.join import halves_from_pairs, join_columns, join_rows, same_in_all, without_copies
from backend.weights.meta_files import CHECKLIST, cut_short, read_checklist, shard_files
from backend.weights.meta_names import EMBED, OUTPUT, ROPE, hf_name
from backend.weights.meta_params import (
    ffn_from_params,
    heads_from_params,
    layers_from_params,
    norm_eps_from_params,
    read_params,
    rope_from_params,
    shape_from_params,
    size_from_params,
)
from backend.weights.meta_releases import Release, find_size, recognise
from backend.weights.shape import EMBED as HF_EMBED
from backend.weights.shape import HEAD, ModelShape
from backend.weights.torch_file import read_torch_file
from backend.weights.torch_zip import Record

_GATE, _KEYS = "layers.0.feed_forward.w1.weight", "layers.0.attention.wk.weight"
_CUT_ALONG_COLUMNS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
_HEADS_REORDERED = ("self_attn.q_proj.weight", "self_attn.k_proj.weight")
_KEY_HEADS = ("self_attn.k_proj.weight", "self_attn.v_proj.weight")
_FIRST_ROWS = 64  # of embeddings and head: trained apart, no two of them stay equal

# Parts of tensor names that plain text weights never have, and the error that says what they mean.
_FOREIGN: Mapping[str, str] = {
    "vision_model.": "meta.is_vision",
    "text_model.": "meta.is_vision",
    "lora": "meta.is_lora",
    "adaptor": "meta.is_lora",
    ".scales": "meta.is_quantised",
    ".zeros": "meta.is_quantised",
    ".qweight": "meta.is_quantised",
    ".experts.": "meta.is_mixture",
}


def open_meta(folder: Path) -> Checkpoint:
    """Open a folder with params.json and consolidated.NN.pth shards.

    Raises:
        WeightsError: a shard is missing, surplus, cut short or of another model; params.json does not fit the tensors;
            it is no text model in full precision.
    """
    params = read_params(folder)
    files = shard_files(folder)
    shards, records = _read_shards(files, params)
    vocab = _vocabulary(shards, params)
    release = _release(folder, params, shards, vocab=vocab)
    shape = shape_from_params(params, ffn=_rows(shards, _GATE), vocab=vocab, release=release)
    tensors = _tensors(shards, shape)
    shape, tied = _tie(tensors, shape, expected=release.is_tied)
    if shape.tie:
        del tensors[HEAD]
    dtype = CONFIG_NAMES[shards[0][EMBED].dtype]
    values: dict[str, Value] = {"folder": label(folder), "shards": len(files), "dtype": dtype}
    first = Message("weights.found.meta", values)
    return Checkpoint(
        kind="meta",
        folder=folder,
        tensors=tensors,
        shape=shape,
        files=files,
        doing="weights.doing.convert",
        notes=(first, *release.notes, *_surprises(params, shape, release, shards=shards), *tied),
        # The settings too: what a file's bytes mean follows from them.
        made_of=(repr(shape), *(f"{file.path.name}:{file.bytes}:{file.path.stat().st_mtime_ns}" for file in files)),
        checks=tuple(record.finish for record in records),
    )


def _read_shards(
    files: Sequence[SourceFile], params: Mapping[str, Any]
) -> tuple[list[dict[str, Tensor]], list[Record]]:
    shards: list[dict[str, Tensor]] = []
    records: list[Record] = []
    for file in files:
        try:
            tensors, kept = read_torch_file(file.path)
        except WeightsError as problem:
            if problem.key == "weights.zip_truncated" and (better := cut_short(file, params, len(files))) is not None:
                raise better from problem
            raise
        tensors.pop(ROPE, None)
        shards.append(tensors)
        records.extend(kept)
        _check_shard(file, tensors, first=shards[0], other=files[0])
    return shards, records


def _check_shard(
    file: SourceFile, tensors: Mapping[str, Tensor], *, first: Mapping[str, Tensor], other: SourceFile
) -> None:
    """Make sure that a shard holds a Llama's tensors, and the same ones as the first shard."""
    for name in tensors:
        foreign = next((part for part in _FOREIGN if part in name), None)
        if foreign is not None:
            raise WeightsError(_FOREIGN[foreign], file=file.path.name, name=name[:120])
    if EMBED not in tensors or _GATE not in tensors:
        raise WeightsError("weights.meta_not_llama", file=file.path.name, name=next(iter(tensors), "")[:120])
    unlike = next((name for name in tensors if not _alike(name, tensors, first)), None)
    if unlike is not None or len(tensors) != len(first):
        name = unlike or next(iter(set(first) - set(tensors)))
        raise WeightsError("weights.shards_unlike", file=file.path.name, other=other.path.name, name=name[:120])


def _alike(name: str, tensors: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> bool:
    """Tell whether a tensor is cut as in the first shard; rows of a vocabulary may not divide evenly (49953 / 2)."""
    if name not in first or first[name].dtype != tensors[name].dtype:
        return False
    skip = 1 if name in (OUTPUT, EMBED) else 0
    return first[name].shape[skip:] == tensors[name].shape[skip:]


def _rows(shards: Sequence[Mapping[str, Tensor]], name: str) -> int:
    return sum(shard[name].length for shard in shards)


def _vocabulary(shards: Sequence[Mapping[str, Tensor]], params: Mapping[str, Any]) -> int:
    """Return the number of embedding rows: LLaMA-1/2 cut embeddings along columns, Llama 3 along rows.

    Raises:
        WeightsError: shards are missing.
    """
    size = size_from_params(params)
    if size is not None and size.shards != len(shards) and size.ffn != _rows(shards, _GATE):
        raise WeightsError("meta.shard_count", name=size.label, usual=size.shards, shards=len(shards))
    dim, lengths = heads_from_params(params)[0], [shard[EMBED].length for shard in shards]
    columns = (*shards[0][EMBED].shape, 0)[1]
    if columns == dim:
        return sum(lengths)
    if columns * len(shards) == dim and len(set(lengths)) == 1:
        return lengths[0]
    raise WeightsError("weights.meta_shard_count", shards=len(shards), columns=columns, dim=dim)


def _release(folder: Path, params: Mapping[str, Any], shards: Sequence[Mapping[str, Tensor]], *, vocab: int) -> Release:
    """Return which release this is.

    Raises:
        WeightsError: the numbers are in a format that no Llama has.
    """
    dtype = shards[0][EMBED].dtype
    if dtype not in FLOATS:
        raise WeightsError("weights.dtype_unknown", name=EMBED, dtype=dtype)
    dim, heads, kv_heads = heads_from_params(params)
    layers, (theta, scaled) = layers_from_params(params), rope_from_params(params)
    return recognise(
        find_size(dim=dim, layers=layers, heads=heads, kv_heads=kv_heads, ffn=_rows(shards, _GATE)),
        theta=theta,
        scaled=scaled,
        norm_eps=norm_eps_from_params(params),
        grouped=kv_heads != heads,
        dtype=dtype,
        vocab=vocab,
        listed=read_checklist(folder / CHECKLIST).values(),
    )


def _tensors(shards: Sequence[Mapping[str, Tensor]], shape: ModelShape) -> dict[str, Tensor]:
    """Return every tensor of the model under its Hugging Face name, in the model's order."""
    meta_names = {hf_name(name): name for name in shards[0]}
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


def _joined(parts: Sequence[Tensor], name: str, shape: ModelShape) -> Tensor:
    if len(parts[0].shape) == 1:
        return same_in_all(parts, name)
    if name.endswith(_CUT_ALONG_COLUMNS) or (name == HF_EMBED and parts[0].shape[1] != shape.hidden):
        return join_columns(parts)
    tensor = join_rows(parts)
    if name.endswith((*_HEADS_REORDERED, *_KEY_HEADS)) and any(part.length % shape.head_dim for part in parts):
        raise WeightsError("weights.meta_heads_cut", name=name, shards=len(parts), kv_heads=shape.kv_heads)
    if name.endswith(_KEY_HEADS):
        copies, rest = divmod(tensor.length, shape.kv_heads * shape.head_dim)
        if copies > 1 and not rest:
            tensor = without_copies(tensor, head_dim=shape.head_dim, copies=copies, name=name)
    return halves_from_pairs(tensor, shape.head_dim) if name.endswith(_HEADS_REORDERED) else tensor


def _tie(tensors: Mapping[str, Tensor], shape: ModelShape, *, expected: bool) -> tuple[ModelShape, tuple[Message, ...]]:
    """Return the shape, tied where head and embeddings are the same numbers: Meta stores both either way.

    Models trained with a head of its own differ in the first rows; only where those are equal is the rest compared.
    """
    embed, head = tensors[HF_EMBED], tensors[HEAD]
    if _equal(embed, head, min(_FIRST_ROWS, shape.vocab)) and _equal(embed, head, shape.vocab):
        return replace(shape, tie=True), (Message("meta.found.tied"),)
    return shape, (Message("meta.found.untied"),) if expected else ()


def _equal(left: Tensor, right: Tensor, rows: int) -> bool:
    """Tell whether so many rows of two matrices of one shape have the same bits."""
    step = max(1, SLAB_BYTES // max(1, left.row_bytes))
    return left.dtype == right.dtype and all(
        left.rows(at, min(at + step, rows)).tobytes() == right.rows(at, min(at + step, rows)).tobytes()
        for at in range(0, rows, step)
    )


def _surprises(
    params: Mapping[str, Any], shape: ModelShape, release: Release, *, shards: Sequence[Mapping[str, Tensor]]
) -> list[Message]:
    """Return what differs from what was published."""
    notes, formula = [], ffn_from_params(params)
    if formula != shape.ffn:
        notes.append(Message("weights.found.ffn_differs", {"formula": formula, "rows": shape.ffn}))
    if release.size is not None and release.size.shards != len(shards):
        values = {"name": release.name, "usual": release.size.shards, "shards": len(shards)}
        notes.append(Message("meta.found.resharded", values))
    if _rows(shards, _KEYS) != shape.kv_heads * shape.head_dim:
        notes.append(Message("meta.found.copies", {"kv_heads": shape.kv_heads}))
    return notes
