"""A LoRA as llama.cpp reads it: a GGUF file with two small matrices for each tensor that it adds to.

What training scaled each product by is multiplied into the second matrix, so the file's own alpha is 0, which llama.cpp
takes for "as it is" (llama-adapter.h, ``get_scale``). Word tables have their first matrix a row a word. Names and keys:
ggml-org/llama.cpp, ``convert_lora_to_gguf.py`` and ``src/llama-adapter.cpp``. Knows nothing about folders or engines.
"""

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.errors import WeightsError
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.gguf_kinds import Form, check_convertible
from backend.weights.gguf_layout import to_gguf_layout
from backend.weights.partial import check_room, writing
from backend.weights.shape import EMBED, HEAD
from backend.weights.split import pairs_from_halves

Matrix = NDArray[np.float32]
Product = tuple[str, Matrix, Matrix]  # tensor of the model, down [rank, in], up [out, rank]

_ITEM = 2  # bytes; both matrices are float16
_HEAD = 1_000_000  # bytes, generously: some hundred names
_TURNED = ("attn_q.weight", "attn_k.weight")


def adapter_bytes(numbers: int) -> int:
    """Return the bytes that so many numbers take."""
    return _ITEM * numbers


def check_places(form: Form, sources: Iterable[str]) -> None:
    """Make sure that llama.cpp can add to these tensors of a model.

    Raises:
        WeightsError: the two uses of its one word table would have to differ.
    """
    shared = next((name for name in sources if name in (EMBED, HEAD)), None)
    if form.size.tie and shared is not None:
        raise WeightsError("attach.tied", name=shared)


def write_gguf_adapter(checkpoint: Checkpoint, products: Iterable[Product], path: Path) -> None:
    """Write the adapter of a model to ``path``.

    Raises:
        WeightsError: a tensor that the model's own file does not have, or numbers beyond float16.
        MachineError: the disk is full or cannot be written.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    form = check_convertible(checkpoint)
    names = {entry.source: entry.name for entry in to_gguf_layout(checkpoint, "f16") if entry.source}
    arrays = [part for product in products for part in _parts(product, names, form)]
    with writing(path.parent):
        check_room(path.parent, _HEAD + sum(array.nbytes for _, array in arrays))
        writer = GGUFWriter(path, form.arch)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 0.0)
        for name, array in arrays:
            writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes, raw_dtype=GGMLQuantizationType.F16)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, array in arrays:
            writer.write_tensor_data(array)
        writer.close()


def _parts(product: Product, names: dict[str, str], form: Form) -> Iterator[tuple[str, NDArray[np.float16]]]:
    source, down, up = product
    check_places(form, [source])
    name = names.get(source)
    if name is None:
        raise WeightsError("attach.no_module", name=source[:120])
    if form.kind.turned and name.endswith(_TURNED):
        up = _turned(up, form.size.head_dim)
    down, up = _levelled(down, up)
    for ending, matrix in (("lora_a", down.T if source == EMBED else down), ("lora_b", up)):
        with np.errstate(over="ignore"):
            narrow = np.ascontiguousarray(matrix).astype(np.float16)
        if not np.isfinite(narrow).all():
            raise WeightsError("attach.overflow", name=source[:120])
        yield f"{name}.{ending}", narrow


def _turned(up: Matrix, head_dim: int) -> Matrix:
    """Return the rows in the order in which the file has those of the model's tensor."""
    turned = pairs_from_halves(Tensor("F32", up.shape, lambda start, stop: up[start:stop]), head_dim)
    return turned.array()


def _levelled(down: Matrix, up: Matrix) -> tuple[Matrix, Matrix]:
    """Return two matrices of the same product whose largest numbers are alike: of a tiny and a large one, float16 would
    hold the tiny one badly. The factor is a power of two, which loses nothing."""
    sizes = [float(np.abs(matrix).max(initial=0.0)) for matrix in (down, up)]
    if not all(sizes) or not prod(sizes):
        return down, up
    shift = round(float(np.log2(sizes[1]) - np.log2(sizes[0])) / 2)
    return np.ldexp(down, shift), np.ldexp(up, -shift)
