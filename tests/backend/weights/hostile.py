"""Files made to do harm, each in a folder of its own with the error it deserves: ``CASES`` maps a name to both.

Written with plain bytes, not by the code under test. Run as a program it opens folders in a process with little memory
and says what came of each: ``python -m tests.backend.weights.hostile FOLDER...``
"""

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

CANARY = "CRIA_CANARY"  # an environment variable that names a file which hostile code would make
Make = Callable[[Path], object]
CASES: dict[str, tuple[Make, str]] = {}

# --- building blocks --------------------------------------------------------------------------------------------------

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 24,
          "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9, "rms_norm_eps": 1e-6}  # fmt: skip
PARAMS = {"dim": 8, "n_heads": 2, "n_layers": 1, "norm_eps": 1e-6, "multiple_of": 8, "vocab_size": -1}
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"]}
EMBED = "model.embed_tokens.weight"


def case(name: str, key: str) -> Callable[[Make], Make]:
    """Put a maker of a folder into the corpus."""

    def keep(make: Make) -> Make:
        CASES[name] = (make, key)
        return make

    return keep


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: object = "F16", shape: object = (2,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def hf(folder: Path, content: bytes, name: str = "model.safetensors", **config: object) -> None:
    """A Hugging Face folder with one file of weights."""
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / name).write_bytes(content)


def indexed(folder: Path, table: object, *files: str) -> None:
    """A Hugging Face folder with an index and small valid files."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    for name in files:
        (folder / name).write_bytes(safetensors({EMBED: entry()}, bytes(4)))


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if -(1 << 31) <= value < 1 << 31 else long(value)


def long(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return (b"\x8a" + bytes([len(raw)]) if len(raw) < 256 else b"\x8b" + struct.pack("<i", len(raw))) + raw


def numbers(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(count: int = 6, key: str = "0", kind: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(shape: Iterable[int] = (2, 3), stride: Iterable[int] = (3, 1), offset: int = 0, kept: bytes = b"") -> bytes:
    call = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return call + (kept or storage()) + number(offset) + numbers(shape) + numbers(stride) + b"\x89}tR"


def pickled(value: bytes, name: str = EMBED) -> bytes:
    """A pickle of a dictionary with one entry."""
    return b"\x80\x02}" + text(name) + value + b"s."


def torch_zip(pickle: bytes, **parts: bytes) -> bytes:
    """The container that torch.save writes, with these parts beside the pickle."""
    members = {"archive/data.pkl": pickle, "archive/data/0": bytes(24)}
    members |= {f"archive/{name.replace('__', '/')}": content for name, content in parts.items()}
    return stored(members)


def stored(members: Mapping[str, bytes], *, crc: int | None = None, local: Mapping[str, str] | None = None) -> bytes:
    """A zip of stored members, written by hand: ``local`` gives members another name where their bytes are."""
    body, directory = b"", b""
    for name, content in members.items():
        raw, here = name.encode(), (local or {}).get(name, name).encode()
        sums = (zlib.crc32(content) if crc is None else crc, len(content), len(content))
        directory += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 0, 0, 0, *sums, len(raw), 0, 0, 0, 0, 0,
                                 len(body)) + raw  # fmt: skip
        body += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, *sums, len(here), 0) + here + content
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + end


def torch_old(pickle: bytes, *, machine: bytes = b"\x88", keys: bytes = b"", tail: bytes = b"") -> bytes:
    """The container of torch before 1.6: five pickles, then the storages."""
    magic = b"\x80\x02" + long(0x1950A86A20F9469CFC6C) + b"."
    settings = b"\x80\x02}" + text("little_endian") + machine + b"s."
    names = keys or b"\x80\x02]" + text("0") + b"a."
    return magic + b"\x80\x02" + number(1001) + b"." + settings + pickle + names + tail


def filled(count: int) -> bytes:
    """So many float32 numbers, each another one."""
    return struct.pack(f"<{count}f", *(1 + number / 64 for number in range(count)))


def state(shapes: Mapping[str, Iterable[int]]) -> bytes:
    """A container of torch.save with these tensors."""
    rows, parts = b"\x80\x02}(", dict[str, bytes]()
    for index, (name, shape) in enumerate(shapes.items()):
        first, *rest = shape
        count = first * (rest[0] if rest else 1)
        kept = storage(count, str(index))
        rows += text(name) + tensor((first, *rest), (*rest, 1), kept=kept)
        parts[f"data__{index}"] = filled(count)
    return torch_zip(rows + b"u.", **parts)


def old_state(shapes: Mapping[str, Iterable[int]]) -> bytes:
    """The same in the container of before torch 1.6."""
    rows, names, tail = b"\x80\x02}(", b"\x80\x02](", b""
    for index, (name, shape) in enumerate(shapes.items()):
        count, (_, *rest) = prod(shape), shape
        rows += text(name) + tensor(shape, (*rest, 1), kept=storage(count, str(index)))
        names += text(str(index))
        tail += struct.pack("<q", count) + filled(count)
    return torch_old(rows + b"u.", keys=names + b"e.", tail=tail)


def sharded(folder: Path) -> None:
    """A Hugging Face folder whose tensors are in two files with an index."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    table = dict[str, str]()
    for number, names in enumerate((list(HF_SHAPES)[:4], list(HF_SHAPES)[4:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        (folder / file).write_bytes(as_safetensors({name: HF_SHAPES[name] for name in names}))
        table |= dict.fromkeys(names, file)
    total = sum(4 * prod(shape) for shape in HF_SHAPES.values())
    index = {"metadata": {"total_size": total}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


_LAYER = {"q": (8, 8), "k": (8, 8), "v": (8, 8), "o": (8, 8), "gate": (24, 8), "up": (24, 8), "down": (8, 24)}
HF_SHAPES = {
    EMBED: (9, 8), "model.norm.weight": (8,), "lm_head.weight": (9, 8),
    **{f"model.layers.0.{'self_attn' if part in 'qkvo' else 'mlp'}.{part}_proj.weight": shape
       for part, shape in _LAYER.items()},
    **{f"model.layers.0.{name}_layernorm.weight": (8,) for name in ("input", "post_attention")},
}  # fmt: skip
META_SHAPES = {
    "tok_embeddings.weight": (9, 8), "norm.weight": (8,), "output.weight": (9, 8),
    **{f"layers.0.attention.w{part}.weight": (8, 8) for part in "qkvo"},
    **{f"layers.0.feed_forward.w{n}.weight": shape for n, shape in (("1", (24, 8)), ("2", (8, 24)), ("3", (24, 8)))},
    **{f"layers.0.{name}_norm.weight": (8,) for name in ("attention", "ffn")},
}  # fmt: skip
_PLACE = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
LORA_SHAPES = {f"{_PLACE}A.weight": (2, 8), f"{_PLACE}B.weight": (8, 2)}


def as_safetensors(shapes: Mapping[str, Iterable[int]]) -> bytes:
    """The same as a safetensors file."""
    header, data = dict[str, object](), b""
    for name, shape in shapes.items():
        start, data = len(data), data + filled(prod(shape))
        header[name] = entry("F32", list(shape), [start, len(data)])
    return safetensors(header, data)


# --- the corpus: safetensors ------------------------------------------------------------------------------------------

for _name, _header, _data, _key in (
    ("overlap", {"a": entry(), "b": entry(offsets=[2, 6])}, bytes(6), "weights.offsets"),
    ("gap", {"a": entry(), "b": entry(offsets=[6, 10])}, bytes(10), "weights.offsets"),
    ("gap at the start", {"a": entry(offsets=[2, 6])}, bytes(6), "weights.offsets"),
    ("trailing bytes", {"a": entry()}, bytes(9), "weights.trailing_bytes"),
    ("offsets turned round", {"a": entry(offsets=[4, 0])}, bytes(4), "weights.header_entry"),
    ("offsets that overflow", {"a": entry(offsets=[1 << 63, (1 << 63) + 4])}, bytes(4), "weights.header_entry"),
    ("shape that overflows", {"a": entry(shape=[1 << 62, 4])}, bytes(4), "weights.header_entry"),
    ("shape of 2^62", {"a": entry(shape=[1 << 62])}, bytes(4), "weights.header_entry"),
    ("shape of no bytes and 2^61 rows", {"a": entry(shape=[1 << 61, 0], offsets=[0, 0])}, b"", "weights.header_entry"),
    ("shape that is a float", {"a": entry(shape=[2.0])}, bytes(4), "weights.header_entry"),
    ("shape of a hundred axes", {"a": entry(shape=[1] * 100, offsets=[0, 2])}, bytes(2), "weights.header_entry"),
    ("entry that is a list", {"a": []}, b"", "weights.header_entry"),
    ("unknown dtype", {"a": entry(dtype="Q4_0")}, bytes(4), "files.dtype_foreign"),
    ("bits turned in a name", {"\u202e\x1b[2J\n": entry(dtype="F\u202e\x07")}, bytes(4), "files.dtype_foreign"),
    ("names of control characters", {"\0\n\x1b]0;x\x07\u2028": entry(offsets=[2, 6])}, bytes(6), "weights.offsets"),
    ("name without end", {"a" * 5000: entry()}, bytes(4), "files.name_too_long"),
    ("metadata that is a list", {"__metadata__": [1], "a": entry()}, bytes(4), "files.metadata_bad"),
    ("metadata with numbers", {"__metadata__": {"a": 1}, "b": entry()}, bytes(4), "files.metadata_bad"),
    ("no tensors", {}, b"", "weights.tensor_count"),
    ("key twice", b'{"a":{"dtype":"F16","shape":[0],"data_offsets":[0,0]},"a":{}}', b"", "weights.json_bad"),
    ("key twice inside", b'{"a":{"dtype":"F16","shape":[2],"shape":[9],"data_offsets":[0,4]}}', bytes(4),
     "weights.json_bad"),
    ("deep nesting", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "weights.json_bad"),
    ("a million lists", b'{"a":[' + b"[]," * 1_100_000 + b"1]}", b"", "files.json_crowded"),
    ("a million tensors", b"{" + b",".join(b'"%d":{}' % n for n in range(500_000)) + b"}", b"",
     "files.too_many_tensors"),
    ("a number of a million digits", b'{"a":' + b"9" * 1_000_000 + b"}", b"", "weights.json_bad"),
    ("half a character", b'{"\\ud800":1}', b"", "weights.json_bad"),
    ("no utf-8", b'{"\xff\xfe":1}', b"", "weights.json_bad"),
    ("not a table", b"[]      ", b"", "weights.not_safetensors"),
    ("zeros", bytes(5000), b"", "weights.not_safetensors"),
):  # fmt: skip
    CASES[f"safetensors: {_name}"] = (
        lambda folder, header=_header, data=_data: hf(folder, safetensors(header, data)),
        _key,
    )
for _length, _key in ((1 << 63, "files.header_too_large"), ((1 << 64) - 1, "files.header_too_large"),
                      (1 << 40, "files.header_too_large"), (0, "weights.not_safetensors"),
                      (5000, "weights.truncated")):  # fmt: skip
    CASES[f"safetensors: header of {_length} bytes"] = (
        lambda folder, length=_length: hf(folder, safetensors({"a": entry()}, bytes(4), length)),
        _key,
    )

# --- the corpus: pickles ----------------------------------------------------------------------------------------------

_RUN = f'touch "${CANARY}"'
_PYTHON = f"open(__import__('os').environ['{CANARY}'], 'w')"
_CALLS = {
    "GLOBAL and REDUCE of os.system": b"cos\nsystem\n" + text(_RUN) + b"\x85R",
    "posix.system": b"cposix\nsystem\n" + text(_RUN) + b"\x85R",
    "builtins.eval": b"cbuiltins\neval\n" + text(_PYTHON) + b"\x85R",
    "builtins.exec by STACK_GLOBAL": text("builtins") + text("exec") + b"\x93" + text(_PYTHON) + b"\x85R",
    "__builtin__.eval of Python 2": b"c__builtin__\neval\n" + text(_PYTHON) + b"\x85R",
    "getattr chains": b"cbuiltins\ngetattr\n" + b"ctorch._utils\n_rebuild_tensor_v2\n" + text("__globals__") + b"\x86R",
    "INST": b"(" + b"S'" + _RUN.encode() + b"'\n" + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + text(_RUN) + b"o",
    "NEWOBJ": b"cos\nsystem\n" + text(_RUN) + b"\x85\x81",
    "NEWOBJ_EX": b"cos\nsystem\n" + text(_RUN) + b"\x85}\x92",
    "BUILD with a state": b"ctorch\nFloatStorage\n}" + text("__setstate__") + b"cos\nsystem\nsb",
    "torch.load": b"ctorch\nload\n" + text("/etc/passwd") + b"\x85R",
    "numpy's own unpickler": b"cnumpy.core.multiarray\n_reconstruct\n)R",
    "a module out of a package": b"cbackend.errors\nunexpected\n)R",
    "a dotted name": text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93",
    "an extension": b"\x82\x01",
    "a call of a text": text("x") + b")R",
    "a call of OrderedDict with a list": b"ccollections\nOrderedDict\n]\x85R",
    "a persistent id that is text": text("storage") + b"Q",
    "a persistent id of Python 2": b"Pstorage\n",
    "a persistent id of another kind": b"(" + text("module") + b"cos\nsystem\nNNK\1tQ",
    "a storage of numbers": storage(kind=number(5)),
    "a storage of a class": storage(kind=b"cbuiltins\nint\n"),
    "a storage of an odd key": storage(key="../../x"),
    "a storage of negative size": storage(-1),
    "a storage of 2^80 numbers": storage(1 << 80),
    "two storages of one key": tensor(kept=storage(6)) + b"0" + tensor(kept=storage(600)),
    "a tensor of no storage": tensor(kept=b"N"),
    "a tensor with a float for an offset": b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"G" + bytes(8)
    + numbers([2, 3]) + numbers([3, 1]) + b"\x89}tR",
    "a negative stride": tensor((2, 3), (-3, 1)),
    "a negative offset": tensor(offset=-1),
    "a parameter with hooks": b"ctorch._utils\n_rebuild_parameter_with_state\n" + tensor() + b"\x88}}tR",
}  # fmt: skip
_VIEWS = {
    "a stride of zero over terabytes": tensor((1 << 31, 1 << 31), (0, 0)),
    "a stride that leaves the storage": tensor((2, 3), (100, 1)),
    "an offset that leaves the storage": tensor(offset=1),
    "a shape of 2^62": tensor((1 << 62,), (1,)),
    "a shape that overflows": tensor((1 << 31, 1 << 31, 1 << 31), (0, 0, 0)),
    "no numbers in 2^62 rows": tensor((1 << 62, 0), (1, 1)),
}
_DAMAGED = {
    "LONG4 of 2 GB": b"\x8b\xff\xff\xff\x7f",
    "LONG4 of negative length": b"\x8b\xff\xff\xff\xff",
    "LONG of a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "BINUNICODE8 of 2^63": b"\x8d" + struct.pack("<Q", 1 << 63),
    "BYTEARRAY8 of 2^40": b"\x96" + struct.pack("<Q", 1 << 40),
    "memo never set": b"h\x07",
    "half a character as a name": b"}X\x03\0\0\0\xed\xa0\x80Ns",
    "no STOP": b"",
}
_NOTHING = {
    "memo index of 2^31": b"Nr\xff\xff\xff\x7fj\xff\xff\xff\x7f\x86",
    "lists that contain themselves": b"]q\0h\0ah\0a",
    "a table that contains itself": b"}q\0" + text("a") + b"h\0s",
    "billion laughs": b"(]q\0" + b"".join(b"]q%c(" % (n + 1) + b"h%c" % n * 10 + b"e" for n in range(100)) + b"t",
    "deep lists": b"]" * 20_001 + b"a" * 20_000,
    "deep tuples": b")" + b"\x85" * 100_000,
    "a memo of a quarter million": b"N" + b"".join(b"r" + struct.pack("<I", n) for n in range(250_000)),
    "a number": b"K\1",
    "an optimizer's state": b"}" + text("state") + b"}s",
}
for _group, _key in ((_CALLS, "weights.pickle_refused"), (_VIEWS, "files.view_outside"),
                     (_DAMAGED, "weights.pickle_damaged"), (_NOTHING, "weights.no_tensors")):  # fmt: skip
    for _name, _value in _group.items():
        _pickle = b"\x80\x02}" + _value if _name == "no STOP" else pickled(_value)
        CASES[f"pickle: {_name}"] = (
            lambda folder, pickle=_pickle: hf(folder, torch_zip(pickle), "pytorch_model.bin"),
            _key,
        )
        CASES[f"old pickle: {_name}"] = (
            lambda folder, pickle=_pickle: hf(folder, torch_old(pickle), "pytorch_model.bin"),
            _key if _name != "no STOP" else "",
        )
        CASES[f"adapter pickle: {_name}"] = (
            lambda folder, pickle=_pickle: lora(folder, torch_zip(pickle)),
            _key if _key != "weights.no_tensors" else "weights.adapter_empty",
        )


def lora(folder: Path, content: bytes, name: str = "adapter_model.bin", **settings: object) -> None:
    """An adapter's folder."""
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | settings))
    (folder / name).write_bytes(content)


# --- the corpus: torch's containers -----------------------------------------------------------------------------------

_GOOD = pickled(tensor())


def changed(at: bytes, offset: int, form: str, value: int, *, which: int = 0) -> bytes:
    """A good container with one number of a header changed; ``at`` is that header's signature."""
    raw = bytearray(torch_zip(_GOOD))
    place = -1
    for _ in range(which + 1):
        place = raw.index(at, place + 1)
    struct.pack_into(form, raw, place + offset, value)
    return bytes(raw)


def deflated(members: Mapping[str, bytes]) -> bytes:
    from io import BytesIO

    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def sharing() -> bytes:
    """Two records that share bytes: the first is said to go on over the second."""
    two = b"\x80\x02}(" + text(EMBED) + tensor(kept=storage(23)) + text("b") + tensor(kept=storage(6, "1")) + b"u."
    raw = bytearray(stored({"archive/data.pkl": two, "archive/data/0": bytes(24), "archive/data/1": bytes(24)}))
    place = raw.index(b"PK\1\2", raw.index(b"PK\1\2") + 1)
    struct.pack_into("<II", raw, place + 20, 92, 92)
    return bytes(raw)


_ZIPS: Mapping[str, tuple[bytes, str]] = {
    "compressed": (deflated({"archive/data.pkl": _GOOD, "archive/data/0": bytes(24)}), "weights.zip_compressed"),
    "bomb": (deflated({"archive/data.pkl": _GOOD, "archive/data/0": bytes(50_000_000)}), "weights.zip_compressed"),
    "bomb for a pickle": (deflated({"archive/data.pkl": bytes(15_000_000)}), "weights.zip_compressed"),
    "pickle too large": (stored({"archive/data.pkl": bytes(17_000_000)}), "weights.pickle_too_large"),
    "encrypted": (changed(b"PK\1\2", 8, "<H", 1), "weights.zip_compressed"),
    "a version from the future": (changed(b"PK\1\2", 6, "<H", 999), "weights.zip_truncated"),
    "size too large": (changed(b"PK\1\2", 24, "<I", 0x7FFFFFFF), "weights.pickle_too_large"),
    "record too large": (changed(b"PK\1\2", 24, "<I", 99, which=1), "weights.zip_compressed"),
    "zip64 without its field": (changed(b"PK\1\2", 24, "<I", 0xFFFFFFFF), "weights.pickle_too_large"),
    "record beyond the end": (changed(b"PK\1\2", 42, "<I", 0x7FFFFFF0, which=1), "weights.zip_truncated"),
    "record in the middle of nowhere": (changed(b"PK\1\2", 42, "<I", 7, which=1), "weights.zip_truncated"),
    "directory of 2 GB": (changed(b"PK\5\6", 12, "<I", 0x7FFFFFFF), "weights.zip_truncated"),
    "directory of the whole file": (b"PK\3\4" + bytes(9_000_000) + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1,
                                    9_000_004, 0, 0), "files.too_many_parts"),
    "local name differs": (stored({"archive/data.pkl": _GOOD, "archive/data/0": bytes(24)},
                                  local={"archive/data/0": "archive/data/9"}), "files.part_differs"),
    "local name longer": (changed(b"PK\3\4", 26, "<H", 15, which=1), "files.part_differs"),
    "wrong checksum": (stored({"archive/data.pkl": _GOOD, "archive/data/0": bytes(24)}, crc=5), "weights.checksum"),
    "parts that overlap": (sharing(), "files.parts_overlap"),
    "a part twice": (stored({"archive/data.pkl": _GOOD, "archive/data.pkk": _GOOD}).replace(b".pkk", b".pkl"),
                     "files.part_twice"),
    "two pickles": (stored({"a/data.pkl": _GOOD, "b/data.pkl": _GOOD}), "weights.not_torch_zip"),
    "record missing": (stored({"archive/data.pkl": _GOOD}), "weights.record_missing"),
    "record too short": (torch_zip(_GOOD, data__0=bytes(20)), "weights.record_size"),
    "storage larger than its record": (torch_zip(pickled(tensor(kept=storage(1 << 40)))), "weights.record_size"),
    "big-endian": (torch_zip(_GOOD, byteorder=b"big"), "files.big_endian"),
    "TorchScript": (torch_zip(_GOOD, constants__pkl=b"x").replace(b"constants/pkl", b"constants.pkl"),
                    "files.other_kind"),
    "a zip of NumPy arrays": (stored({"arr_0.npy": b"\x93NUMPY"}), "files.other_kind"),
    "a zip of a whole folder": (stored({"lora/adapter_model.bin": b"x"}), "files.other_kind"),
    "paths that lead elsewhere": (stored({"../../data.pkl": _GOOD, "../../data/0": bytes(24)}), ""),
    "a million tensors": (torch_zip(b"\x80\x02}(" + b"".join(text(str(n)) + b"N" for n in range(600_000)) + b"u."),
                          "files.too_many_tensors"),
    "junk after PK": (b"PK\3\4" + bytes(500), "weights.zip_truncated"),
}  # fmt: skip
for _name, (_content, _key) in _ZIPS.items():
    CASES[f"torch zip: {_name}"] = (lambda folder, raw=_content: hf(folder, raw, "pytorch_model.bin"), _key)

_ROW = struct.pack("<q", 6) + bytes(24)
_OLD: Mapping[str, tuple[bytes, str]] = {
    "big-endian": (torch_old(_GOOD, machine=b"\x89", tail=_ROW), "files.big_endian"),
    "no machine": (torch_old(_GOOD, machine=b"N", tail=_ROW), "files.big_endian"),
    "no storages": (torch_old(_GOOD), "weights.truncated"),
    "a count that lies": (torch_old(_GOOD, tail=struct.pack("<q", 1 << 60) + bytes(24)), "weights.record_size"),
    "a count below zero": (torch_old(_GOOD, tail=struct.pack("<q", -6) + bytes(24)), "weights.record_size"),
    "terabytes": (torch_old(pickled(tensor(kept=storage(1 << 46))), tail=struct.pack("<q", 1 << 46)),
                  "weights.truncated"),
    "keys of another kind": (torch_old(_GOOD, keys=b"\x80\x02K\1.", tail=_ROW), "weights.not_torch_zip"),
    "keys that are tuples": (torch_old(_GOOD, keys=b"\x80\x02])a.", tail=_ROW), "weights.not_torch_zip"),
    "an unknown key": (torch_old(_GOOD, keys=b"\x80\x02]" + text("\x1b[2J") + b"a.", tail=_ROW),
                       "weights.record_missing"),
    "a key twice": (torch_old(_GOOD, keys=b"\x80\x02](" + text("0") * 2 + b"e.", tail=_ROW * 2),
                    "weights.record_missing"),
    "no keys": (torch_old(_GOOD, keys=b"\x80\x02].", tail=_ROW), "weights.record_missing"),
    "bytes at the end": (torch_old(_GOOD, tail=_ROW + b"x"), "weights.trailing_bytes"),
    "another magic number": (torch_old(_GOOD, tail=_ROW).replace(b"\x6c\xfc\x9c\x46", b"\x6d\xfc\x9c\x46"),
                             "weights.not_torch_zip"),
}  # fmt: skip
for _name, (_content, _key) in _OLD.items():
    CASES[f"old torch: {_name}"] = (lambda folder, raw=_content: hf(folder, raw, "pytorch_model.bin"), _key)

# --- the corpus: other files under the names of weights ---------------------------------------------------------------

_OTHERS: Mapping[str, tuple[bytes, str]] = {
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(99), "files.other_kind"),
    "GGML": (b"tjgg\x03\0\0\0" + bytes(99), "files.other_kind"),
    "tar": (bytes(257) + b"ustar\00000" + bytes(1000), "files.other_kind"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "files.other_kind"),
    "npy": (b"\x93NUMPY\x01\0" + bytes(99), "files.other_kind"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "files.other_kind"),
    "RAR": (b"Rar!\x1a\x07\x01\0" + bytes(99), "files.other_kind"),
    "pickle": (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}", "files.other_kind"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n", "weights.file_is_pointer"),
    "web page": (b"\xef\xbb\xbf \r\n<!DOCTYPE html><title>Sign in", "weights.file_is_page"),
    "XML error": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "weights.file_is_page"),
    "reply": (b'{"error":"Access to model is restricted\x1b[2J"}', "weights.file_is_reply"),
    "empty": (b"", "weights.file_empty"),
    "one byte": (b"P", ""),
    "noise": (b"\x07" * 999, ""),
}
for _name, (_content, _key) in _OTHERS.items():
    for _file in ("model.safetensors", "pytorch_model.bin"):
        CASES[f"{_file}: {_name}"] = (lambda folder, raw=_content, name=_file: hf(folder, raw, name), _key)
    CASES[f"consolidated.00.pth: {_name}"] = (lambda folder, raw=_content: meta(folder, raw), _key)
CASES["safetensors named .bin"] = (
    lambda folder: hf(folder, safetensors({"a": entry()}, bytes(4)), "pytorch_model.bin"), "files.misnamed"
)  # fmt: skip
CASES["torch file named .safetensors"] = (lambda folder: hf(folder, torch_zip(_GOOD)), "files.misnamed")
CASES["old torch file named .safetensors"] = (lambda folder: hf(folder, torch_old(_GOOD, tail=_ROW)), "files.misnamed")
CASES["Lightning checkpoint"] = (
    lambda folder: hf(folder, torch_zip(b"\x80\x02}(" + text("epoch") + b"K\1" + text("state_dict") + b"}" + text(EMBED)
                                        + tensor() + s(b"") + b"u."), "pytorch_model.bin"), ""
)  # fmt: skip


def s(rest: bytes) -> bytes:
    """Opcode SETITEM."""
    return b"s" + rest


def meta(folder: Path, content: bytes, params: object = PARAMS) -> None:
    """A folder of Meta's layout with one shard."""
    (folder / "params.json").write_text(json.dumps(params))
    (folder / "consolidated.00.pth").write_bytes(content)


GOOD: Mapping[str, Make] = {
    "safetensors": lambda folder: hf(folder, as_safetensors(HF_SHAPES)),
    "bin": lambda folder: hf(folder, state(HF_SHAPES), "pytorch_model.bin"),
    "old bin": lambda folder: hf(folder, old_state(HF_SHAPES), "pytorch_model.bin"),
    "sharded": sharded,
    "meta": lambda folder: meta(folder, state(META_SHAPES)),
    "adapter": lambda folder: lora(folder, state(LORA_SHAPES)),
    "safetensors adapter": lambda folder: lora(folder, as_safetensors(LORA_SHAPES), "adapter_model.safetensors"),
}
for _name, _make_good in GOOD.items():
    CASES[f"a good folder: {_name}"] = (_make_good, "opened")

# --- the corpus: folders ----------------------------------------------------------------------------------------------

for _name in ("/etc/passwd", "../secret.safetensors", "a/../../b.safetensors", "a\\b.safetensors", "C:x.safetensors",
              "", ".hidden.safetensors", "x\0.safetensors", "\u202ex.safetensors", "x" * 5000 + ".safetensors",
              "model.gguf"):  # fmt: skip
    CASES[f"index that names {_name[:30]!r}"] = (
        lambda folder, name=_name: indexed(folder, {"weight_map": {EMBED: name}}), "weights.bad_name"
    )  # fmt: skip
for _name, _table in (("a list", [1]), ("no map", {}), ("a map of lists", {"weight_map": {"a": ["x"]}}),
                      ("an empty map", {"weight_map": {}}), ("a map that is text", {"weight_map": "x"})):  # fmt: skip
    CASES[f"index with {_name}"] = (lambda folder, table=_table: indexed(folder, table), "")
_ONE = {"weight_map": {EMBED: "model-00001-of-00001.safetensors"}}


@case("index whose shard is missing", "weights.shard_missing")
def _missing(folder: Path) -> None:
    indexed(folder, _ONE)


@case("index that names tensors which are not there", "weights.index_differs")
def _differs(folder: Path) -> None:
    table = {"weight_map": {**_ONE["weight_map"], "\x1b[31m\u202eb": "model-00001-of-00001.safetensors"}}
    indexed(folder, table, "model-00001-of-00001.safetensors")


@case("link out of the folder", "weights.link_outside")
def _link(folder: Path) -> None:
    hf(folder, b"")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/passwd")


@case("link out of the folder from an index", "weights.link_outside")
def _linked_shard(folder: Path) -> None:
    indexed(folder, _ONE)
    (folder / "model-00001-of-00001.safetensors").symlink_to("/etc/passwd")


@case("adapter that is a link out of the folder", "weights.link_outside")
def _linked_adapter(folder: Path) -> None:
    lora(folder, b"")
    (folder / "adapter_model.bin").unlink()
    (folder / "adapter_model.bin").symlink_to("/etc/passwd")


def special(folder: Path, kind: str, name: str) -> None:
    """Put something that is no file where a file should be."""
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    elif kind == "circle":
        (folder / name).symlink_to(name)
    else:
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(folder):
            made.bind(name)


def special_case(base: Make, kind: str, name: str) -> Make:
    def make(folder: Path) -> None:
        base(folder)
        special(folder, kind, name)

    return make


for _kind, _key in (("pipe", "files.is_special"), ("folder", "files.is_folder"), ("device", "files.is_special"),
                    ("circle", "weights.cannot_read"), ("socket", "files.is_special")):  # fmt: skip
    for _file in ("model.safetensors",):
        CASES[f"{_kind} named {_file}"] = (
            special_case(lambda folder: hf(folder, safetensors({EMBED: entry()}, bytes(4))), _kind, _file), _key
        )  # fmt: skip
    for _file in ("params.json", "consolidated.00.pth"):
        CASES[f"{_kind} named {_file}"] = (
            special_case(lambda folder: meta(folder, torch_zip(_GOOD)), _kind, _file), _key
        )  # fmt: skip
    for _file in ("adapter_config.json", "adapter_model.bin"):
        CASES[f"adapter: {_kind} named {_file}"] = (
            special_case(lambda folder: lora(folder, torch_zip(_GOOD)), _kind, _file), _key
        )  # fmt: skip
    CASES[f"{_kind} named like a shard"] = (
        special_case(lambda folder: indexed(folder, _ONE), _kind, "model-00001-of-00001.safetensors"), _key
    )  # fmt: skip

for _key_name, _value in (("hidden_size", 1 << 70), ("num_hidden_layers", 10**9), ("num_attention_heads", 0),
                          ("num_attention_heads", "2"), ("rms_norm_eps", float("nan")), ("rms_norm_eps", "1e999"),
                          ("hidden_size", True), ("hidden_size", [[]] * 1000), ("model_type", ["\x1b[2J"]),
                          ("num_key_value_heads", -1), ("head_dim", 3), ("rope_scaling", {"type": "\u202ex"}),
                          ("intermediate_size", None)):  # fmt: skip
    CASES[f"config.json: {_key_name} = {str(_value)[:20]!r}"] = (
        lambda folder, table={_key_name: _value}: hf(folder, as_safetensors(HF_SHAPES), **table), ""
    )  # fmt: skip
for _key_name, _value in (("dim", 1 << 70), ("n_layers", 10**9), ("n_heads", 0), ("n_heads", 3), ("norm_eps", "x"),
                          ("vocab_size", "\x1b[2J"), ("rope_theta", [])):  # fmt: skip
    CASES[f"params.json: {_key_name} = {str(_value)[:20]!r}"] = (
        lambda folder, table={_key_name: _value}: meta(folder, state(META_SHAPES), PARAMS | table), ""
    )  # fmt: skip
for _key_name, _value in (("r", 1 << 70), ("r", "8"), ("lora_alpha", float("inf")), ("peft_type", ["\u202e"]),
                          ("layer_replication", [[0, 1 << 60]])):  # fmt: skip
    CASES[f"adapter_config.json: {_key_name} = {str(_value)[:20]!r}"] = (
        lambda folder, table={_key_name: _value}: lora(folder, state(LORA_SHAPES), **table), ""
    )  # fmt: skip
for _key_name, _value in (("multiple_of", -1), ("multiple_of", 1 << 62), ("ffn_dim_multiplier", 1e300),
                          ("ffn_dim_multiplier", float("nan")), ("ffn_dim_multiplier", [])):  # fmt: skip
    CASES[f"params.json: {_key_name} = {str(_value)[:20]!r} does no harm"] = (
        lambda folder, table={_key_name: _value}: meta(folder, state(META_SHAPES), PARAMS | table), "opened"
    )  # fmt: skip
for _key_name, _value in (("rank_pattern", {"((((o|d|e|l|m)+)+)+)+!": 2}), ("alpha_pattern", []),
                          ("alpha_pattern", {"(.*.*.*.*.*.*.*.*)*!": 2}), ("target_modules", {"a": 1}),
                          ("modules_to_save", "((((((" * 999), ("target_modules", "(a|a)*$"),
                          ("use_dora", "\x1b[2J")):  # fmt: skip
    CASES[f"adapter_config.json: {_key_name} = {str(_value)[:20]!r}"] = (
        lambda folder, table={_key_name: _value}: lora(folder, state(LORA_SHAPES), **table), "either"
    )  # fmt: skip
for _name, _raw in (("deep", b"[" * 50_000), ("crowded", b'{"a":[' + b"{}," * 1_200_000 + b"1]}"),
                    ("huge", b" " * 4_100_000 + b"{}"), ("twice", b'{"a":1,"a":2}'), ("half", b'{"a":"\\ud800"}'),
                    ("UTF-16", '{"a":1}'.encode("utf-16")), ("a number", b"5"),
                    ("not JSON", b"\x1b[2J\0{")):  # fmt: skip
    for _file in ("config.json", "model.safetensors.index.json", "params.json", "adapter_config.json"):

        def _make(folder: Path, raw: bytes = _raw, file: str = _file) -> None:
            if file == "params.json":
                meta(folder, torch_zip(_GOOD))
            elif file == "adapter_config.json":
                lora(folder, torch_zip(_GOOD))
            else:
                indexed(folder, _ONE, "model-00001-of-00001.safetensors")
            (folder / file).write_bytes(raw)

        CASES[f"{_file} that is {_name}"] = (_make, "")


# --- the child --------------------------------------------------------------------------------------------------------

MEMORY = 1_500_000_000  # bytes of address space: what is mapped counts, used or not
SECONDS = 20


def _watch(seen: list[str]) -> None:
    watched = {"os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "pickle.find_class", "exec",
               "socket.connect", "os.remove", "os.rename", "os.mkdir", "shutil.rmtree", "ctypes.dlopen"}  # fmt: skip

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in watched or writes:
            seen.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def read_all(folder: Path) -> dict[str, bytes]:
    """Open a folder by the entry point that fits it, read it to its end, and return every tensor's bytes."""
    from backend.weights.adapter import open_adapter
    from backend.weights.opening import open_checkpoint

    tensors: dict[str, Any]
    if any(path.name.startswith("adapter_") for path in folder.iterdir()):
        adapter = open_adapter(folder)
        tensors = {f"{name} {half}": getattr(pair, half) for name, pair in adapter.pairs.items()
                   for half in ("up", "down")} | dict(adapter.whole)  # fmt: skip
        found = {name: tensor.array().tobytes() for name, tensor in tensors.items()}
        for record in adapter.records:
            record.finish()
        return found
    checkpoint = open_checkpoint(folder)
    found = {name: b"".join(slab.tobytes() for slab in tensor.slabs(500)) for name, tensor in checkpoint.items()}
    checkpoint.check_sources()
    return found


def _answer(folder: Path) -> dict[str, object]:
    from backend.errors import CriaError
    from backend.text import LANGUAGES

    Path("/proc/self/clear_refs").write_text("5")
    began = time.monotonic()
    try:
        return {"opened": len(read_all(folder))}
    except CriaError as problem:
        return {"key": problem.key, "texts": [problem.text(language) for language in LANGUAGES],
                "hint": problem.hint is not None, "peak": _peak(), "seconds": time.monotonic() - began}  # fmt: skip
    except Exception as problem:  # noqa: BLE001 - whatever it is, it is a defect, and is reported as one
        return {"crash": f"{type(problem).__name__}: {problem}"[:300]}


def main(folders: list[str]) -> None:
    """Open every folder and print what came of it, a JSON line each."""
    import resource

    import numpy as np  # noqa: F401 - loaded before the watch begins

    import backend.weights.adapter
    import backend.weights.opening  # noqa: F401

    for codec in ("cp437", "unicode_escape", "utf-16"):  # loaded before the watch begins
        "".encode(codec)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _answer(Path(folders[0]))
    seen: list[str] = []
    _watch(seen)
    for folder in folders:
        signal.alarm(SECONDS)  # nothing catches it: the process ends, and the parent knows at which folder
        answer = {"folder": folder, **_answer(Path(folder))}
        answer["did"] = [event for event in seen if "clear_refs" not in event]
        seen.clear()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_text().splitlines())
