"""GGUF files for tests, written by the ``gguf`` package: tiny, and with whatever settings a test wants."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

USUAL = {"context_length": 512, "embedding_length": 64, "block_count": 2, "attention.head_count": 4}
TOKENS = ["<unk>", "<s>", "</s>", "▁hello", "你好"]


def write_tiny(path: Path, arch: str = "llama", settings: Mapping[str, Any] | None = None) -> Path:
    """Write a file with two tensors and a list of tokens; ``settings`` go under the architecture's name."""
    writer = GGUFWriter(path, arch)
    writer.add_file_type(7)
    for key, value in (USUAL if settings is None else settings).items():
        if isinstance(value, int):
            writer.add_uint32(f"{arch}.{key}", value)
        else:
            writer.add_array(f"{arch}.{key}", value)
    writer.add_token_list(TOKENS)
    writer.add_bos_token_id(1)
    writer.add_chat_template("{{ bos_token }}")
    writer.add_tensor("token_embd.weight", np.zeros((5, 64), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(64, np.float16))
    _finish(writer)
    return path


def write_parts(source: Path, folder: Path, tensors: int) -> list[Path]:
    """Write a file again in parts of so many tensors, as llama.cpp's own program does."""
    reader = GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(folder / "model.gguf", arch, split_max_tensors=tensors)
    for name, found in reader.fields.items():
        if name != "general.architecture" and not name.startswith("GGUF."):
            inner = found.types[1] if found.types[0] is GGUFValueType.ARRAY else None
            writer.add_key_value(name, found.contents(), found.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    _finish(writer)
    return sorted(folder.glob("model-*.gguf"))


def _finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
