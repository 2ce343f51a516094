"""Whether a LoRA and a model belong together: sizes, rows, order, tokenizer. Nothing is written before this.

Knows nothing about how a LoRA is folded in.

Sources: huggingface/peft (what it does with each part), ymcui/Chinese-LLaMA-Alpaca (which needs which).
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from backend.errors import WeightsError
from backend.text import Message
from backend.weights.adapter import Adapter
from backend.weights.as_is import AsIs
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import label, read_at
from backend.weights.generation import generation, named_generation, named_size, other_family
from backend.weights.huggingface import differ
from backend.weights.known_adapters import (
    AFTER_CHINESE_LLAMA_PLUS,
    CHINESE_ALPACA_ROWS,
    CHINESE_LLAMA_ROWS,
    FIRST_GENERATION_RANK,
    ON_LLAMA,
)
from backend.weights.partial import hash_file
from backend.weights.shape import EMBED, HEAD, ModelShape
from backend.weights.tokenizer import read_vocabulary

_SAMPLE_BYTES = 65_536
# Kinds (model_type) whose layers are linear ones with an adapter's names: what holds for Llama's holds for theirs.
KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")
OTHER_FAMILY = "lora.found.other_family"
_LAYER = re.compile(r"model\.layers\.(\d+)\..+_proj\.weight")


def check_kind(checkpoint: Checkpoint) -> Checkpoint:
    """Return a model that a LoRA may belong to, without the copy of a word table that is shared anyway.

    Raises:
        WeightsError: its kind is none that LoRAs can be added to here.
    """
    shape = checkpoint.shape
    if isinstance(shape, AsIs) and shape.kind not in KINDS:
        raise WeightsError("lora.kind", kind=shape.kind[:60], known=", ".join(KINDS))
    if EMBED not in checkpoint:
        raise WeightsError("weights.tensor_missing", name=EMBED)
    if not shape.tie or HEAD not in checkpoint or differ(checkpoint[EMBED], checkpoint[HEAD]):
        return checkpoint
    return replace(checkpoint, tensors={name: tensor for name, tensor in checkpoint.items() if name != HEAD})


def check_lora(checkpoint: Checkpoint, adapter: Adapter) -> tuple[int, list[Message]]:
    """Return the vocabulary rows of the result, and what should be said about it. The model comes from ``check_kind``.

    Raises:
        WeightsError: another model, the wrong order, the same adapter again, rows that would have to be invented.
    """
    _check_new(checkpoint, adapter)
    _check_places(checkpoint, adapter)
    rows = _rows(checkpoint, adapter)
    _check_sizes(checkpoint, adapter)
    _check_token_rows(checkpoint, adapter)
    notes = [*_order_notes(checkpoint, adapter, rows), *_base_notes(checkpoint, adapter)]
    notes.extend(_tokenizer_notes(adapter, rows))
    notes.extend(_target_notes(checkpoint, adapter))
    return rows, notes


def _check_new(checkpoint: Checkpoint, adapter: Adapter) -> None:
    """Refuse an adapter that is folded in already: the same file, or one of its size that begins and ends alike."""
    for file in checkpoint.files:
        if file.bytes != adapter.file.bytes:
            continue
        if file.path.resolve() == adapter.file.path.resolve() or _samples(file.path, file.bytes) == _samples(
            adapter.file.path, file.bytes
        ):
            raise WeightsError("lora.twice", folder=str(adapter.folder))


def _samples(path: Path, size: int) -> tuple[bytes, ...]:
    count = min(size, _SAMPLE_BYTES)
    return tuple(read_at(path, at, count).tobytes() for at in (0, (size - count) // 2, size - count))


def _check_places(checkpoint: Checkpoint, adapter: Adapter) -> None:
    """Make sure that every tensor of the adapter has its place, and every module that it should bring is there."""
    for name in adapter.names:
        if name in checkpoint or name == HEAD:  # where there is none, the words going in and coming out share a table
            continue
        if name.endswith(".bias") and f"{name.removesuffix('.bias')}.weight" in checkpoint:
            raise WeightsError("lora.no_bias", name=name)
        raise WeightsError("weights.adapter_no_place", name=name, base=adapter.settings.base)
    if EMBED in adapter.pairs or any(name != EMBED for name in adapter.embeds):
        name = EMBED if EMBED in adapter.pairs else next(name for name in adapter.embeds if name != EMBED)
        raise WeightsError("weights.adapter_key", file=adapter.file.path.name, name=name)
    both = next((name for name in adapter.tokens if name in adapter.embeds or name in adapter.pairs), None)
    if both is not None:
        raise WeightsError("lora.tokens_and_pair", name=both)
    for saved in adapter.settings.saved:
        tails = tuple(f"{saved}.{kind}" for kind in ("weight", "bias"))
        wanted = [name for name in checkpoint if name in tails or name.endswith(tuple(f".{tail}" for tail in tails))]
        if wanted and not any(name in adapter.whole for name in wanted):
            raise WeightsError("lora.saved_missing", name=wanted[0], file=adapter.file.path.name)


def _check_sizes(checkpoint: Checkpoint, adapter: Adapter) -> None:
    for name, pair in adapter.pairs.items():
        _check_fit(name, (pair.up.length, pair.down.shape[1]), checkpoint, adapter)
    for name, pair in adapter.embeds.items():
        _check_fit(name, (pair.down.shape[1], pair.up.length), checkpoint, adapter)
    for name, tensor in adapter.whole.items():
        if name not in (EMBED, HEAD):
            _check_fit(name, tensor.shape, checkpoint, adapter)


def _check_fit(name: str, found: tuple[int, ...], checkpoint: Checkpoint, adapter: Adapter) -> None:
    """Compare a shape with the one that the tensor has once the adapter's whole tensors are in their places."""
    wanted = _shape_after(name, checkpoint, adapter)
    if found != wanted:
        raise _misfit(name, found, wanted, checkpoint=checkpoint, base=adapter.settings.base)


def _misfit(
    name: str, found: tuple[int, ...], wanted: tuple[int, ...], *, checkpoint: Checkpoint, base: str
) -> WeightsError:
    """Say that shapes differ, and where the adapter's author named the size of its base, that it is another."""
    size = named_size(base, checkpoint.parameters)
    theirs, ours = str(list(found)), str(list(wanted))
    if size is None:
        return WeightsError("weights.adapter_other_size", name=name, found=theirs, expected=ours)
    return WeightsError("lora.other_size", name=name, found=theirs, expected=ours, base=base, size=size)


def _shape_after(name: str, checkpoint: Checkpoint, adapter: Adapter) -> tuple[int, ...]:
    if name in (EMBED, HEAD) and name in adapter.whole:
        return adapter.whole[name].shape
    return checkpoint[EMBED if name == HEAD and name not in checkpoint else name].shape


def _rows(checkpoint: Checkpoint, adapter: Adapter) -> int:
    """Return the vocabulary rows after the adapter's whole embeddings replaced the model's."""
    for name in (EMBED, HEAD):
        if name not in adapter.whole:
            continue
        found, wanted = adapter.whole[name].shape, checkpoint[EMBED].shape
        if found[1:] != wanted[1:]:
            raise _misfit(name, found, wanted, checkpoint=checkpoint, base=adapter.settings.base)
        if (found[0], wanted[0]) == (CHINESE_LLAMA_ROWS, CHINESE_ALPACA_ROWS):
            raise WeightsError("lora.chinese_order", rows=found[0], base=wanted[0])
        if found[0] < wanted[0]:
            raise WeightsError("weights.adapter_fewer_rows", name=name, rows=found[0], base=wanted[0])
    embed, head = (_shape_after(name, checkpoint, adapter)[0] for name in (EMBED, HEAD))
    if embed != head and (HEAD in checkpoint or HEAD in adapter.names):
        raise WeightsError("weights.adapter_one_sided", embed=embed, head=head)
    return embed


def _check_token_rows(checkpoint: Checkpoint, adapter: Adapter) -> None:
    for name, (rows, tensor) in adapter.tokens.items():
        count, columns = _shape_after(name, checkpoint, adapter)
        if tensor.shape[1] != columns:
            _check_fit(name, (count, tensor.shape[1]), checkpoint, adapter)
        if rows and max(rows) >= count:
            raise WeightsError("lora.token_beyond", name=name, row=max(rows), rows=count)


def _order_notes(checkpoint: Checkpoint, adapter: Adapter, rows: int) -> Iterator[Message]:
    """Tell a Chinese-Alpaca that needs Chinese-LLaMA-Plus before it. Only where its rows and rank leave that open is
    the file hashed: a gigabyte takes seconds, and there the answer is worth hours.
    """
    before = checkpoint.shape.vocab
    if rows != CHINESE_ALPACA_ROWS or before >= CHINESE_LLAMA_ROWS or adapter.rank <= FIRST_GENERATION_RANK:
        return
    base, sha256 = adapter.settings.base, ""
    named = "chinesellamaplus" in re.sub(r"[^a-z]", "", base.lower())
    if not named:
        sha256 = hash_file(adapter.file.path)
    if named or sha256 in AFTER_CHINESE_LLAMA_PLUS:
        name = AFTER_CHINESE_LLAMA_PLUS.get(sha256, label(adapter.folder))
        raise WeightsError("lora.needs_chinese_llama", name=name, base=before)
    if sha256 not in ON_LLAMA:
        yield Message("lora.found.perhaps_second", {"rank": adapter.rank, "base": before})


def _base_notes(checkpoint: Checkpoint, adapter: Adapter) -> Iterator[Message]:
    shape, base = checkpoint.shape, adapter.settings.base
    kind = shape.kind if isinstance(shape, AsIs) else "llama"
    family = other_family(base, kind)
    if family is not None:
        yield Message(OTHER_FAMILY, {"base": base, "theirs": family, "ours": kind})
    ours, theirs = generation(shape) if isinstance(shape, ModelShape) else None, named_generation(base)
    if ours and theirs and ours != theirs:
        yield Message("lora.found.other_generation", {"base": base, "theirs": theirs, "ours": ours})


def _tokenizer_notes(adapter: Adapter, rows: int) -> Iterator[Message]:
    """Refuse an adapter whose tokenizer has tokens without rows: the model would be asked for what it does not have.

    PEFT's users and Chinese-LLaMA-Alpaca's scripts would fill such rows with random numbers. A token that only fills up
    batches is never asked for.
    """
    vocabulary = read_vocabulary(adapter.folder)
    if vocabulary is None or vocabulary.size <= rows:
        return
    beyond = [token.text for token in vocabulary.added if token.id >= rows]
    if len(beyond) == vocabulary.size - rows == 1 and beyond[0] == vocabulary.pad.text:
        yield Message("lora.found.pad_without_row", {"token": beyond[0][:40]})
        return
    raise WeightsError("lora.tokens_without_rows", tokens=vocabulary.size, rows=rows, folder=str(adapter.folder))


def _target_notes(checkpoint: Checkpoint, adapter: Adapter) -> Iterator[Message]:
    """Say what the settings name and the file lacks, and the other way round."""
    settings = adapter.settings
    if settings.targets is None:
        return
    wanted = set()
    for name in checkpoint:
        layer = _LAYER.fullmatch(name)
        inside = layer is not None and (settings.layers is None or int(layer[1]) in settings.layers)
        if inside and any(target.matches_tail(name.removesuffix(".weight")) for target in settings.targets):
            wanted.add(name)
    absent = sorted(wanted - set(adapter.names))
    if absent:
        yield Message("lora.found.targets_absent", {"count": len(absent), "name": absent[0]})
    surplus = sorted(name for name in adapter.pairs if _LAYER.fullmatch(name) and name not in wanted)
    if surplus:
        yield Message("lora.found.targets_surplus", {"count": len(surplus), "name": surplus[0]})
