"""Hugging Face folders: config.json beside safetensors or torch-zip .bin files, single or sharded with an index.

Knows nothing about Meta's layout or about what is done with the tensors.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.text import Message, Value
from backend.weights.as_is import as_is
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.disk import SourceFile, inside, is_there, label, plain_name, read_json, source_file
from backend.weights.dtypes import CONFIG_NAMES, FLOATS
from backend.weights.safetensors_file import read_safetensors
from backend.weights.shape import CONFIG, EMBED, HEAD, ModelShape, Shape, shape_from_config
from backend.weights.torch_file import read_torch_file
from backend.weights.torch_zip import Record

_SUFFIXES = (".safetensors", ".bin")
# (index, single file), the preferred kind first.
_LAYOUTS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
_CLASS = "LlamaForCausalLM"
_NUMBERED = re.compile(r"(?P<stem>.*-)(?P<number>\d{1,6})-of-(?P<count>\d{1,6})(?P<suffix>\.[a-z]+)")
_MOST_PARTS = 1000  # 405B in 5 GB parts has 191
_SAMPLE_ROWS = 256
_COMPUTED = ("rotary_emb.inv_freq",)  # buffers that old versions saved; every version computes them anew


def is_huggingface(folder: Path) -> bool:
    """Tell whether a folder is laid out as Hugging Face's model folders are, with weights or without."""
    return (folder / CONFIG).is_file()


def has_weights(folder: Path) -> bool:
    """Tell whether weights under Hugging Face's names are there."""
    return any((folder / name).is_file() for layout in _LAYOUTS for name in layout)


def open_huggingface(folder: Path) -> Checkpoint:
    """Open a folder with config.json and weights.

    A Llama model is checked tensor by tensor against config.json; one of another kind is taken as it is.

    Raises:
        WeightsError: no weights, a file missing or damaged, tensors that do not fit config.json.
    """
    config = read_json(inside(folder, CONFIG))
    files, index, notes = _files(folder)
    tensors, records = _read(files, index)
    shape: Shape
    if config.get("model_type", "llama") == "llama":
        shape, ordered, more = _llama(config, tensors)
    else:
        shape, ordered, more = as_is(config, tensors)
    checkpoint = Checkpoint(
        kind="huggingface",
        folder=folder,
        tensors=ordered,
        shape=shape,
        files=files,
        # The settings too: what a file's bytes mean follows from them.
        made_of=(repr(shape), *(f"{file.path.name}:{file.bytes}:{file.path.stat().st_mtime_ns}" for file in files)),
        checks=tuple(record.finish for record in records),
    )
    values: dict[str, Value] = {"folder": label(folder), "files": len(files), "dtype": CONFIG_NAMES[checkpoint.dtype]}
    first = Message("weights.found.huggingface", values)
    return replace(checkpoint, notes=(first, *notes, *more, *_config_notes(config, shape)))


def _llama(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[ModelShape, dict[str, Tensor], list[Message]]:
    """Return a Llama model's shape, its tensors in its own order, and what is worth saying."""
    if EMBED not in tensors:
        raise WeightsError("weights.not_llama", kind=str(config.get("model_type"))[:60])
    shape, notes = shape_from_config(config, vocab=tensors[EMBED].length), []
    if shape.tie and HEAD in tensors and differ(tensors[EMBED], tensors[HEAD]):
        shape = replace(shape, tie=False)
        notes.append(Message("finish.found.head_not_tied"))
    return shape, _in_order(tensors, shape), notes


def differ(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors are not the same, by their first and last rows."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return True
    count = min(one.length, _SAMPLE_ROWS)
    parts = ((0, count), (one.length - count, one.length))
    return any(one.rows(*part).tobytes() != other.rows(*part).tobytes() for part in parts)


def _files(folder: Path) -> tuple[tuple[SourceFile, ...], Mapping[str, str] | None, list[Message]]:
    """Return the weight files, the index's name -> file (None for a single file), and what is worth saying."""
    notes: list[Message] = []
    found = [names for names in _LAYOUTS if any(is_there(folder / name) for name in names)]
    if not found:
        raise _no_weights(folder)
    index_name, single = next((layout for layout in found if _is_complete(folder, layout[0])), found[0])
    if len(found) > 1:
        first = (index_name, single) == found[0]
        notes.append(Message("weights.found.both_kinds" if first else "finish.found.bin_used"))
    if not (folder / index_name).is_file():
        notes.extend(_surplus(folder, {single}, Path(single).suffix))
        return (source_file(inside(folder, single)),), None, notes
    table = _index(folder, index_name)
    names = sorted(set(table.values()))
    missing = [name for name in names if not is_there(folder / name)]
    if missing:
        raise WeightsError("weights.shard_missing", file=missing[0], index=index_name, count=len(missing))
    _check_numbering(folder, names, index_name)
    notes.extend(_surplus(folder, set(names), Path(single).suffix))
    return tuple(source_file(inside(folder, name)) for name in names), table, notes


def _index(folder: Path, index: str) -> Mapping[str, str]:
    """Return tensor name -> file name."""
    table = read_json(folder / index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(value, str) for value in table.values()):
        raise WeightsError("weights.index_bad", file=index)
    return {tensor: plain_name(name, _SUFFIXES, index) for tensor, name in table.items()}


def _is_complete(folder: Path, index: str) -> bool:
    """Tell whether one kind of weights is all there: often only the index of the other was downloaded along."""
    if not (folder / index).is_file():
        return True
    return all((folder / name).is_file() for name in _index(folder, index).values())


def _check_numbering(folder: Path, names: list[str], index: str) -> None:
    """Make sure that files called "3 of 7" are parts of one set, and that none of the seven is neither listed nor here.

    Listed is what matters; a part that is here and not listed is noted as surplus (transformers 4.28 could write an
    empty first one). Some scripts count from 0, some write no leading zeros.
    """
    numbered = [(name, found) for name in names if (found := _NUMBERED.fullmatch(name))]
    if not numbered:
        return
    (first, parts), count = numbered[0], int(numbered[0][1]["count"])
    for name, found in numbered:
        if (found["stem"], int(found["count"])) != (parts["stem"], count):
            raise WeightsError("finish.mixed_parts", file=name, other=first, index=index)
    there = [found for path in folder.iterdir() if (found := _NUMBERED.fullmatch(path.name))]
    numbers = {int(found["number"]) for _, found in numbered}
    start = 0 if 0 in numbers else 1
    numbers |= {int(found["number"]) for found in there if found["stem"] == parts["stem"]}
    for number in range(start, start + min(count, _MOST_PARTS)):
        if number not in numbers:
            name = f"{parts['stem']}{number:0{len(parts['number'])}d}-of-{parts['count']}{parts['suffix']}"
            raise WeightsError("finish.part_unlisted", file=name, index=index, count=count)


def _surplus(folder: Path, used: set[str], suffix: str) -> Iterator[Message]:
    """Name the weight files that nothing refers to: left over from another upload, as a rule."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix == suffix and path.name not in used)
    surplus = [name for name in names if name.startswith(("model", "pytorch_model"))]
    if surplus:
        yield Message("finish.found.surplus", {"file": surplus[0], "count": len(surplus)})


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


def _config_notes(config: Mapping[str, Any], shape: Shape) -> list[Message]:
    """Name the mistakes of early uploads that the finished folder will not have."""
    notes: list[Message] = []
    classes = config.get("architectures")
    if isinstance(shape, ModelShape) and isinstance(classes, list) and classes and classes[0] != _CLASS:
        notes.append(Message("weights.found.old_class", {"name": str(classes[0])[:60]}))
    stated = config.get("vocab_size", shape.vocab)
    if stated != shape.vocab:
        notes.append(Message("weights.found.vocab_size", {"stated": str(stated)[:20], "rows": shape.vocab}))
    return notes
