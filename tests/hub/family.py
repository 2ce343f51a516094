"""What the stand-in serves to a person: the demo family, folders of theirs, and random models of any size.

A random model is a complete LLaMA in safetensors, whose weights exist only while they are sent. Knows nothing about
HTTP.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from backend.settings import ASSETS
from backend.weights.shape import ModelShape
from tests.hub.content import Content, Generated, Joined, Literal
from tests.hub.repository import folder_files

DEMO = ("base", "delta", "lora")
_SHARD = 400_000_000  # bytes
_HIDDEN, _FFN, _HEADS = 2048, 5632, 16
_ONE = b"\0\x3c"  # in half precision
_TOKENIZER = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def demo(member: str) -> dict[str, Content]:
    """Return the files of one member of the demo family."""
    return folder_files(ASSETS / "demo" / member)


def zipped(member: str) -> bytes:
    """Return one member of the demo family as people pass LoRAs around: a folder in a zip."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in demo(member).items():
            archive.writestr(f"{member}/{path}", content.read())
    return data.getvalue()


def local(folder: Path) -> Iterator[tuple[str, dict[str, Content]]]:
    """Yield what a folder holds as repositories: its subfolders, or itself where there are files in it."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in [folder] if any(path.is_file() for path in inside) else inside:
        yield f"local/{path.resolve().name}", folder_files(path)


def random_model(size: int, *, is_delta: bool = False) -> dict[str, Content]:
    """Return a LLaMA of about that many bytes, or a delta for it, with the demo's tokenizer."""
    given = demo("delta")
    config = json.loads(given["config.json"].read())
    fixed, layer = (sum(_bytes(shape) for shape in _sizes(config["vocab_size"], layers).values()) for layers in (0, 1))
    layers = max(1, round((size - fixed) / (layer - fixed)))
    sizes = {"hidden_size": _HIDDEN, "intermediate_size": _FFN, "num_attention_heads": _HEADS}
    files: dict[str, Content] = {name: given[name] for name in _TOKENIZER}
    files["config.json"] = Literal(json.dumps({**config, **sizes, "num_hidden_layers": layers}, indent=2).encode())
    tensors = _sizes(config["vocab_size"], layers)
    shards = list(_shards(tensors))
    placed = dict[str, str]()
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        files[name] = _safetensors({tensor: tensors[tensor] for tensor in shard}, number, is_delta)
        placed |= dict.fromkeys(shard, name)
    total = sum(_bytes(shape) for shape in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    files["model.safetensors.index.json"] = Literal(json.dumps(index, indent=2).encode())
    return files


def _sizes(vocab: int, layers: int) -> dict[str, tuple[int, ...]]:
    head = _HIDDEN // _HEADS
    shape = ModelShape(
        hidden=_HIDDEN,
        layers=layers,
        vocab=vocab,
        heads=_HEADS,
        kv_heads=_HEADS,
        head_dim=head,
        ffn=_FFN,
        norm_eps=1e-6,
    )
    return dict(shape.expected())


def _bytes(shape: tuple[int, ...]) -> int:
    count = 2  # bytes of a number in half precision
    for size in shape:
        count *= size
    return count


def _shards(tensors: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    shard, held = list[str](), 0
    for name, shape in tensors.items():
        if shard and held + _bytes(shape) > _SHARD:
            yield shard
            shard, held = [], 0
        shard.append(name)
        held += _bytes(shape)
    yield shard


def _safetensors(tensors: dict[str, tuple[int, ...]], number: int, is_delta: bool) -> Content:
    """Return a file of the format: eight bytes of length, a header in JSON, the numbers. A base's norms are ones."""
    table, end, parts = dict[str, object](), 0, list[Content]()
    for place, (name, shape) in enumerate(tensors.items()):
        start, end = end, end + _bytes(shape)
        table[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
        is_ones = "norm" in name and not is_delta
        parts.append(
            Literal(_ONE * (end - start >> 1))
            if is_ones
            else Generated(end - start, (place + 1000 * number) * 2 + is_delta)
        )
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return Joined(Literal(len(header).to_bytes(8, "little") + header), *parts)
