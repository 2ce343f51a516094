"""What the pipeline would write, from shapes alone, against files that were really published: sizes to the byte.

Sources: the file listings of meta-llama/Llama-2-7b-hf, Llama-3.1-8B-Instruct, Llama-3.2-1B and 3.2-3B; Meta's own
checkpoint sizes less their container.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.dtypes import Array
from backend.weights.meta_layout import to_meta_layout
from backend.weights.shape import ModelShape
from backend.weights.writer import plan_shards

GB = 1_000_000_000


def llama(
    hidden: int,
    layers: int,
    heads: int,
    ffn: int,
    *,
    kv_heads: int | None = None,
    vocab: int = 32000,
    tie: bool = False,
    norm_eps: float = 1e-5,
    theta: float = 10000.0,
) -> ModelShape:
    return ModelShape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads or heads,
        head_dim=hidden // heads,
        ffn=ffn,
        vocab=vocab,
        norm_eps=norm_eps,
        rope_theta=theta,
        tie=tie,
    )


def llama3(hidden: int, layers: int, heads: int, ffn: int, *, tie: bool = False) -> ModelShape:
    return llama(hidden, layers, heads, ffn, kv_heads=8, vocab=128256, tie=tie, theta=500000.0)


LLAMA_7B = llama(4096, 32, 32, 11008, norm_eps=1e-6)
LLAMA_13B = llama(5120, 40, 40, 13824, norm_eps=1e-6)
LLAMA_30B = llama(6656, 60, 52, 17920, norm_eps=1e-6)
LLAMA_65B = llama(8192, 80, 64, 22016)
LLAMA2_70B = llama(8192, 80, 64, 28672, kv_heads=8)
LLAMA3_8B, LLAMA3_70B = llama3(4096, 32, 32, 14336), llama3(8192, 80, 64, 28672)
LLAMA3_405B = llama3(16384, 126, 128, 53248)


def unread(start: int, stop: int) -> Array:
    raise AssertionError("a plan reads nothing")


def tensors(shape: ModelShape, dtype: str) -> dict[str, Tensor]:
    return {name: Tensor(dtype, dimensions, unread) for name, dimensions in shape.expected()}


def with_frequencies(found: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors as transformers 4.31 had them: position frequencies, in float32, after each o_proj."""
    for name, tensor in found.items():
        yield name, tensor
        if name.endswith("o_proj.weight"):
            yield name.replace("o_proj.weight", "rotary_emb.inv_freq"), Tensor("F32", (64,), unread)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (LLAMA3_8B, [4_976_698_672, 4_999_802_720, 4_915_916_176, 1_168_138_808]),
        (llama3(2048, 16, 32, 8192, tie=True), [2_471_645_608]),
        (llama3(3072, 28, 24, 8192, tie=True), [4_965_799_096, 1_459_729_952]),
    ],
)
def test_planned_files_are_as_large_as_the_published_ones(shape: ModelShape, sizes: list[int]) -> None:
    assert [shard.nbytes for shard in plan_shards(tensors(shape, "BF16"))] == sizes


def test_planned_files_of_llama_2_are_as_large_as_the_published_ones() -> None:
    planned = plan_shards(dict(with_frequencies(tensors(LLAMA_7B, "F16"))), 10 * GB)
    assert [shard.nbytes for shard in planned] == [9_976_578_928, 3_500_297_344]


@pytest.mark.parametrize(
    ("shape", "of_ten", "of_five"),
    [
        (LLAMA_7B, 2, 3),
        (LLAMA_13B, 3, 6),
        (LLAMA_30B, 7, 14),
        (LLAMA_65B, 14, 27),
        (LLAMA2_70B, 15, 29),
        (LLAMA3_70B, None, 30),
        (LLAMA3_405B, None, 191),
    ],
)
def test_as_many_files_are_planned_as_were_published(shape: ModelShape, of_ten: int | None, of_five: int) -> None:
    found = tensors(shape, "F16")
    assert len(plan_shards(found)) == of_five
    assert of_ten is None or len(plan_shards(found, 10 * GB)) == of_ten


@pytest.mark.parametrize(
    ("shape", "shards", "payload"),
    [
        (LLAMA_7B, 1, 13_476_831_232),
        (LLAMA_13B, 2, 13_016_279_040),
        (LLAMA_30B, 4, 16_265_679_872),
        (LLAMA_65B, 8, 16_323_723_264),
        (LLAMA2_70B, 8, 17_246_470_144),
        (LLAMA3_8B, 1, 16_060_522_496),
        (LLAMA3_70B, 8, 17_640_734_720),
        (LLAMA3_405B, 8, 101_470_601_216),
    ],
)
def test_planned_meta_shards_hold_as_much_as_metas_own(shape: ModelShape, shards: int, payload: int) -> None:
    checkpoint = Checkpoint(
        kind="huggingface", folder=Path("nowhere"), tensors=tensors(shape, "F16"), shape=shape, files=()
    )
    layout = to_meta_layout(checkpoint)
    assert layout.shards == shards
    assert [sum(piece.nbytes(shard) for piece in layout.pieces) for shard in range(shards)] == [payload] * shards


@pytest.mark.parametrize(
    ("base", "vocab", "rows"),
    [
        (LLAMA_13B, 49953, [24976, 24977]),
        (LLAMA_13B, 49954, [24977, 24977]),
        (LLAMA_30B, 49953, [12488, 12488, 12488, 12489]),
        (LLAMA_30B, 49954, [12488, 12488, 12488, 12490]),
    ],
)
def test_chinese_vocabularies_are_cut_as_their_merge_script_cuts_them(
    base: ModelShape, vocab: int, rows: list[int]
) -> None:
    shape = llama(base.hidden, base.layers, base.heads, base.ffn, vocab=vocab, norm_eps=1e-6)
    checkpoint = Checkpoint(
        kind="huggingface", folder=Path("nowhere"), tensors=tensors(shape, "F16"), shape=shape, files=()
    )
    head = next(piece for piece in to_meta_layout(checkpoint).pieces if piece.name == "output.weight")
    assert [head.shape(shard)[0] for shard in range(len(rows))] == rows
