"""Which files of a folder are a raw Meta checkpoint, whether any is missing or cut short, and what its checklist says.

Knows nothing about what is in the files.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.weights.disk import SourceFile, read_start, source_file
from backend.weights.meta_params import (
    PARAMS,
    ffn_from_params,
    heads_from_params,
    layers_from_params,
    size_from_params,
)
from backend.weights.meta_releases import LLAMA3_VOCAB

CHECKLIST, TOKENIZER_CHECKLIST = "checklist.chk", "tokenizer_checklist.chk"
_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_LINE = re.compile(r"([0-9a-f]{32}) [ *]([A-Za-z0-9._-]{1,200})")
_CHECKLIST_LIMIT = 100_000  # bytes; the longest of Meta's is about 1 kB
_FP8_SCALES = "fp8_scales_*"  # beside the 8-bit shards of Llama 3.1 405B


def shard_name(index: int) -> str:
    """Return Meta's name for a shard."""
    return f"consolidated.{index:02d}.pth"


def is_meta(folder: Path) -> bool:
    """Tell whether a folder is laid out as Meta's."""
    return (folder / PARAMS).is_file() or any(_SHARD.fullmatch(path.name) for path in folder.glob("*.pth"))


def size_folders(folder: Path) -> list[Path]:
    """Return the folders of Meta's layout directly inside one: those of several sizes, or ``original`` in a Hugging
    Face repository."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and (path / PARAMS).is_file())


def shard_files(folder: Path) -> tuple[SourceFile, ...]:
    """Return the shard files in order: consecutive from 00, nothing missing and nothing else that ends in .pth.

    A shard may be a link to another disk, as people keep them: nothing of it leaves but numbers of tensors.

    Raises:
        WeightsError: one is missing, surplus or no weights file at all, or this is the 8-bit release.
    """
    scales = next((path.name for path in sorted(folder.glob(_FP8_SCALES))), None)
    if scales is not None:
        raise WeightsError("meta.is_fp8", file=scales)
    names = sorted(path.name for path in folder.glob("*.pth"))
    strange = [name for name in names if not _SHARD.fullmatch(name)]
    if strange:
        raise WeightsError("weights.meta_surplus", file=strange[0], folder=str(folder))
    if not names:
        raise WeightsError("weights.meta_no_shards", folder=str(folder))
    for index, name in enumerate(names):
        if name != shard_name(index):
            raise WeightsError("weights.meta_gap", missing=shard_name(index), found=name)
    return tuple(source_file(folder / name) for name in names)


def least_bytes(params: Mapping[str, Any], shards: int) -> int:
    """Return the fewest bytes that one of so many shards can have: two for every number that params.json tells of.

    LLaMA 1 and Llama 2 do not tell the size of their vocabulary, which is 32000 rows in the published sizes.
    """
    (dim, heads, kv_heads), size = heads_from_params(params), size_from_params(params)
    layers, ffn = layers_from_params(params), ffn_from_params(params) or 0
    stated = params.get("vocab_size", -1)
    vocab = stated if isinstance(stated, int) and 0 < stated <= LLAMA3_VOCAB else 32000 if size else 0
    keys = 2 * kv_heads * (dim // heads)
    cut = 2 * vocab * dim + layers * (dim * (2 * dim + keys) + 3 * dim * ffn)
    norms = (2 * layers + 1) * dim
    return 2 * (cut // max(shards, size.shards if size else 1) + norms)


def cut_short(file: SourceFile, params: Mapping[str, Any], shards: int) -> WeightsError | None:
    """Return what to say of a file whose end is missing, if its size shows how much of it that is."""
    expected = least_bytes(params, shards)
    if file.bytes >= expected:
        return None
    missing = expected - file.bytes
    return WeightsError("meta.cut_short", file=file.path.name, bytes=file.bytes, expected=expected, missing=missing)


def read_checklist(path: Path) -> dict[str, str]:
    """Return file name -> md5 of a checklist, empty where there is none; lines of another form are passed over."""
    if not path.is_file() or path.stat().st_size > _CHECKLIST_LIMIT:
        return {}
    lines = read_start(path, _CHECKLIST_LIMIT).decode("utf-8", "replace").splitlines()
    rows = (_LINE.fullmatch(line.strip().lower()) for line in lines)
    return {row[2]: row[1] for row in rows if row}


def checklist_bytes(md5s: Mapping[str, str]) -> bytes:
    """Return a checklist in Meta's form: md5 in hex, two spaces, the name, a newline."""
    return "".join(f"{md5}  {name}\n" for name, md5 in md5s.items()).encode()
