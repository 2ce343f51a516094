"""Hugging Face folders: config.json beside safetensors or torch-zip .bin files, single or sharded with an index.

Knows nothing about Meta's layout or about what is done with the tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.text import Message
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.disk import SourceFile, inside, plain_name, read_json, source_file
from backend.weights.dtypes import CONFIG_NAMES, FLOATS
from backend.weights.safetensors_file import read_safetensors
from backend.weights.shape import CONFIG, EMBED, HEAD, ModelShape, shape_from_config
from backend.weights.torch_file import read_torch_file
from backend.weights.torch_zip import Record

_SUFFIXES = (".safetensors", ".bin")
# (index, single file), the preferred kind first.
_LAYOUTS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
_COMPUTED = ("rotary_emb.inv_freq",)  # buffers that old versions saved; every version computes them anew


def is_huggingface(folder: Path) -> bool:
    """Tell whether a folder is laid out as Hugging Face's model folders are, with weights or without."""
    return (folder / CONFIG).is_file()


def has_weights(folder: Path) -> bool:
    """Tell whether weights under Hugging Face's names are there."""
    return any((folder / name).is_file() for layout in _LAYOUTS for name in layout)


def open_huggingface(folder: Path) -> Checkpoint:
    """Open a folder with config.json and weights.

    Raises:
        WeightsError: no weights, a file missing, surplus or damaged, tensors that do not fit config.json, not a Llama.
    """
    config = read_json(folder / CONFIG)
    files, index, notes = _files(folder)
    tensors, records = _read(files, index)
    if EMBED not in tensors:
        raise WeightsError("weights.not_llama", kind=str(config.get("model_type"))[:60])
    shape = shape_from_config(config, vocab=tensors[EMBED].length)
    ordered = _in_order(tensors, shape)
    first = Message("weights.found.huggingface", {"files": len(files), "dtype": CONFIG_NAMES[ordered[EMBED].dtype]})
    return Checkpoint(
        kind="huggingface",
        folder=folder,
        tensors=ordered,
        shape=shape,
        files=files,
        notes=(first, *notes, *_config_notes(config, shape)),
        made_of=tuple(f"{file.path.name}:{file.bytes}:{file.path.stat().st_mtime_ns}" for file in files),
        checks=tuple(record.finish for record in records),
    )


def _files(folder: Path) -> tuple[tuple[SourceFile, ...], Mapping[str, str] | None, list[Message]]:
    """Return the weight files, the index's name -> file (None for a single file), and what is worth saying."""
    notes: list[Message] = []
    found = [(index, single) for index, single in _LAYOUTS if (folder / index).is_file() or (folder / single).is_file()]
    if not found:
        raise _no_weights(folder)
    if len(found) > 1:
        notes.append(Message("weights.found.both_kinds"))
    index_name, single = found[0]
    if not (folder / index_name).is_file():
        return (source_file(inside(folder, single)),), None, notes
    table = read_json(folder / index_name).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(value, str) for value in table.values()):
        raise WeightsError("weights.index_bad", file=index_name)
    names = sorted({plain_name(name, _SUFFIXES, index_name) for name in table.values()})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WeightsError("weights.shard_missing", file=missing[0], index=index_name, count=len(missing))
    return tuple(source_file(inside(folder, name)) for name in names), table, notes


def _no_weights(folder: Path) -> WeightsError:
    """Say why there is nothing to open: a shard without its index is a download that did not finish."""
    shards = sorted(path.name for path in folder.glob("*-of-*") if path.suffix in _SUFFIXES)
    if shards:
        return WeightsError("weights.index_missing", file=shards[0], folder=str(folder))
    if (folder / "adapter_config.json").is_file():
        return WeightsError("weights.is_adapter", folder=str(folder))
    return WeightsError("weights.no_weights", folder=str(folder))


def _read(
    files: tuple[SourceFile, ...], index: Mapping[str, str] | None
) -> tuple[dict[str, Tensor], tuple[Record, ...]]:
    """Return all tensors of all files; the index and the files must tell the same story."""
    tensors: dict[str, Tensor] = {}
    records: list[Record] = []
    for file in files:
        found, kept = read_weights(file.path)
        records.extend(kept)
        for name, tensor in found.items():
            if name in tensors:
                raise WeightsError("weights.tensor_twice", name=name[:120], file=file.path.name)
            if index is not None and not name.endswith(_COMPUTED) and index.get(name) != file.path.name:
                raise WeightsError("weights.index_differs", name=name[:120], file=file.path.name)
            tensors[name] = tensor
    lost = next((name for name in index or () if name not in tensors and not name.endswith(_COMPUTED)), None)
    if lost is not None and index is not None:
        raise WeightsError("weights.index_differs", name=lost[:120], file=index[lost])
    kept_names = {name: tensor for name, tensor in tensors.items() if not name.endswith(_COMPUTED)}
    return kept_names, tuple(records)


def read_weights(path: Path) -> tuple[dict[str, Tensor], tuple[Record, ...]]:
    """Return the lazy tensors of one .safetensors or .bin file, and the records whose checksums want finishing."""
    if path.suffix == ".safetensors":
        return read_safetensors(path), ()
    return read_torch_file(path)


def _in_order(tensors: Mapping[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    """Return the model's tensors in its own order, each with the shape that config.json calls for.

    A delta may have more embedding rows than its config says (Vicuna v0), so the rows decide there.
    """
    ordered: dict[str, Tensor] = {}
    for name, wanted in shape.expected():
        tensor = tensors.get(name)
        if tensor is None:
            raise WeightsError("weights.tensor_missing", name=name)
        if tensor.shape != wanted:
            raise WeightsError(
                "weights.tensor_shape", name=name, found=str(list(tensor.shape)), expected=str(list(wanted))
            )
        if tensor.dtype not in FLOATS:
            raise WeightsError("weights.dtype_unknown", name=name, dtype=tensor.dtype)
        ordered[name] = tensor
    left = sorted(set(tensors) - set(ordered) - ({HEAD} if shape.tie else set()))
    if left:
        raise WeightsError("weights.tensor_unknown", name=left[0][:120], count=len(left))
    return ordered


def _config_notes(config: Mapping[str, Any], shape: ModelShape) -> list[Message]:
    """Name the mistakes of early uploads that the finished folder will not have."""
    notes: list[Message] = []
    classes = config.get("architectures")
    if isinstance(classes, list) and classes and classes[0] != "LlamaForCausalLM":
        notes.append(Message("weights.found.old_class", {"name": str(classes[0])[:60]}))
    stated = config.get("vocab_size")
    if stated != shape.vocab:
        notes.append(Message("weights.found.vocab_size", {"stated": str(stated)[:20], "rows": shape.vocab}))
    return notes
