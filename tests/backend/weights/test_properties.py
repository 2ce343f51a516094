"""The pipeline against formulas written anew in numpy, over shapes, shards, number formats, containers and slab sizes.

The oracles read with torch.load and safetensors, and know nothing of slabs: what they give for whole tensors must come
out of every way of cutting them.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.delta import add_delta
from backend.weights.dtypes import NUMPY
from backend.weights.huggingface import open_huggingface
from backend.weights.lora import add_lora
from backend.weights.meta import open_meta
from backend.weights.torch_file import read_torch_file
from backend.weights.writer import save
from tests.backend.weights.make import META, Tiny, Weights, weights, write_hf, write_lora, write_meta

Numbers = NDArray[np.float32]
FEW = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = st.sampled_from(["F16", "BF16", "F32"])


@st.composite
def tinies(draw: st.DrawFn) -> Tiny:
    """Models of every shape that may be: grouped keys or not, odd vocabularies, heads of two numbers and of sixteen."""
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 3]))
    return Tiny(
        hidden=heads * draw(st.sampled_from([2, 4, 16])),
        layers=draw(st.integers(1, 2)),
        heads=heads,
        kv_heads=kv_heads,
        vocab=4 * draw(st.integers(1, 40)),
        dtype=draw(DTYPES),
        llama3=draw(st.booleans()),
    )


def fit(tiny: Tiny, shards: int) -> bool:
    """Tell whether a model can be cut into so many equal shards."""
    return all(size % shards == 0 for size in (tiny.kv_heads, tiny.heads, tiny.ffn, tiny.hidden, tiny.vocab))


# --- the oracles ------------------------------------------------------------------------------------------------------


def bits(tensor: torch.Tensor) -> NDArray[np.generic]:
    raw = tensor.contiguous().view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor.contiguous()
    return raw.numpy()


def wide(array: NDArray[np.generic], dtype: str) -> Numbers:
    """Return numbers as float32."""
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else array.astype(np.float32)


def narrow(array: Numbers, dtype: str) -> NDArray[np.generic]:
    """Round float32 to nearest, ties to even."""
    if dtype != "BF16":
        return array.astype(NUMPY[dtype])
    raw = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    return ((raw + 0x7FFF + ((raw >> 16) & 1)) >> 16).astype(np.uint16)


def converted(folder: Path, tiny: Tiny, shards: int) -> dict[str, NDArray[np.generic]]:
    """Put Meta's shards together and reorder the heads, row by row, as formats.md describes it."""
    loaded = [torch.load(folder / f"consolidated.{shard:02d}.pth") for shard in range(shards)]
    meta_to_hf = {meta: hf for hf, meta in META.items()}
    found = {}
    for name in loaded[0]:
        if name == "rope.freqs":
            continue
        parts = [bits(shard[name]) for shard in loaded]
        stem, middle = name.removesuffix(".weight"), ""
        if stem.startswith("layers."):
            _, layer, stem = stem.split(".", 2)
            middle = f"model.layers.{layer}."
        columns = stem in ("attention.wo", "feed_forward.w2") or (stem == "tok_embeddings" and not tiny.llama3)
        whole = parts[0] if parts[0].ndim == 1 else np.concatenate(parts, axis=1 if columns else 0)
        if stem in ("attention.wq", "attention.wk"):
            half, turned = tiny.head_dim // 2, np.empty_like(whole)
            for row in range(len(whole)):
                head, place = divmod(row, tiny.head_dim)
                turned[head * tiny.head_dim + place % 2 * half + place // 2] = whole[row]
            whole = turned
        found[f"{middle}{meta_to_hf[stem]}.weight"] = whole
    return found


# --- every way of asking for rows -------------------------------------------------------------------------------------


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, ...]:
    """Where to cut a tensor, in thousandths of its length."""
    return tuple(sorted(draw(st.lists(st.integers(0, 1000), max_size=4))))


def by_cuts(tensor: Tensor, places: tuple[int, ...]) -> Iterator[NDArray[np.generic]]:
    ends = [0, *(place * tensor.length // 1000 for place in places), tensor.length]
    for start, stop in pairwise(ends):
        if start < stop:
            yield tensor.rows(start, stop)


def assert_same(
    checkpoint: Checkpoint, wanted: dict[str, NDArray[np.generic]], slab_bytes: int, places: tuple[int, ...] = ()
) -> None:
    assert set(checkpoint) == set(wanted)
    for name, tensor in checkpoint.items():
        assert tensor.shape == wanted[name].shape, name
        assert b"".join(slab.tobytes() for slab in tensor.slabs(slab_bytes)) == wanted[name].tobytes(), name
        assert b"".join(part.tobytes() for part in by_cuts(tensor, places)) == wanted[name].tobytes(), (name, places)
    checkpoint.check_sources()


@given(tiny=tinies(), shards=st.sampled_from([1, 2, 4]), shared=st.booleans(), slab=st.integers(1, 9000), places=cuts())
@FEW
def test_converting_is_the_formula(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, shards: int, shared: bool, slab: int, places: tuple[int, ...]
) -> None:
    assume(fit(tiny, shards))
    folder = tmp_path_factory.mktemp("meta")
    write_meta(folder, tiny, weights(tiny), shards=shards, shared_storage=shared)
    assert_same(open_meta(folder), converted(folder, tiny, shards), slab, places)


@given(tiny=tinies(), kind=st.sampled_from(["safetensors", "bin", "old"]), files=st.sampled_from([1, 3]),
       slab=st.integers(1, 9000), places=cuts())  # fmt: skip
@FEW
def test_every_container_gives_the_same(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, kind: str, files: int, slab: int, places: tuple[int, ...]
) -> None:
    folder, found = tmp_path_factory.mktemp("hf"), weights(tiny)
    write_hf(folder, tiny, found, kind="bin" if kind == "old" else kind, shards=files)
    for path in folder.glob("*.bin") if kind == "old" else ():
        torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    assert_same(open_huggingface(folder), {name: bits(found[name]) for name in found}, slab, places)


@given(tiny=tinies(), other=DTYPES, extra=st.integers(0, 3), slab=st.integers(1, 9000), places=cuts())
@FEW
def test_a_delta_is_one_sum_rounded_once(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, other: str, extra: int, slab: int, places: tuple[int, ...]
) -> None:
    assume(tiny.hidden >= 8)
    home, base = tmp_path_factory.mktemp("delta"), weights(tiny, 1)
    change = replace(tiny, dtype=other, vocab=tiny.vocab + extra)
    delta = weights(change, 3, scale=0.01, norm=0.0)
    write_hf(home / "base", tiny, base)
    write_hf(home / "delta", change, delta, kind="bin")
    wanted = {}
    for name, tensor in base.items():
        grown = np.zeros(delta[name].shape, np.float32)
        grown[: len(tensor)] = wide(bits(tensor), tiny.dtype)
        wanted[name] = narrow(grown + wide(bits(delta[name]), other), tiny.dtype)
    merged = add_delta(open_huggingface(home / "base"), open_huggingface(home / "delta"), rule="zero")
    assert_same(merged, wanted, slab, places)


def sixteenths(state: Weights) -> Weights:
    """Numbers whose products and sums are exact in float32, so that the order of adding cannot matter."""
    return {
        name: (tensor.float() * 64).round().clamp(-31, 31).div(16).to(tensor.dtype) for name, tensor in state.items()
    }


@given(tiny=tinies(), rank=st.integers(1, 9), alpha=st.sampled_from([1, 8, 16]), form=st.sampled_from(["F16", "F32"]),
       scale=st.sampled_from([None, 0.5, -2.0]), slab=st.integers(1, 9000), places=cuts())  # fmt: skip
@FEW
def test_a_lora_is_one_product_rounded_once(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, rank: int, alpha: int, form: str, scale: float | None,
    slab: int, places: tuple[int, ...],
) -> None:  # fmt: skip
    home = tmp_path_factory.mktemp("lora")
    base = weights(tiny, 1)
    write_hf(home / "base", tiny, base)
    state = sixteenths(write_lora(home / "lora", tiny, rank=rank, alpha=alpha, dtype=form))
    torch.save(state, home / "lora" / "adapter_model.bin")
    strength = np.float32(alpha / rank * (1.0 if scale is None else scale))
    wanted = {name: bits(base[name]) for name in base}
    for name in wanted:
        stem = "base_model.model." + name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in state:
            up, down = (state[f"{stem}.lora_{half}.weight"].float().numpy() for half in "BA")
            total = wide(wanted[name], tiny.dtype) + strength * (up.astype(np.float64) @ down).astype(np.float32)
            wanted[name] = narrow(total, tiny.dtype)
    assert_same(add_lora(open_huggingface(home / "base"), home / "lora", scale=scale), wanted, slab, places)


# --- writing ----------------------------------------------------------------------------------------------------------


@given(tiny=tinies(), shards=st.sampled_from([1, 2]), slab=st.integers(1, 9000), shard_bytes=st.integers(200, 60_000))
@FEW
def test_what_is_written_is_what_the_library_reads_and_writes(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, shards: int, slab: int, shard_bytes: int
) -> None:
    assume(fit(tiny, shards))
    home = tmp_path_factory.mktemp("write")
    write_meta(home / "meta", tiny, weights(tiny), shards=shards)
    list(save(open_meta(home / "meta"), home / "out", slab_bytes=slab, shard_bytes=shard_bytes))
    wanted, seen = converted(home / "meta", tiny, shards), set[str]()
    for path in (home / "out").glob("*.safetensors"):
        found = load_file(path)
        save_file(found, home / "theirs", metadata={"format": "pt"})
        assert (home / "theirs").read_bytes() == path.read_bytes()
        for name, tensor in found.items():
            assert bits(tensor).tobytes() == wanted[name].tobytes(), name
        seen |= set(found)
    assert seen == set(wanted)
    (home / "out" / "config.json").write_text(json.dumps(tiny.config()))
    assert_same(open_huggingface(home / "out"), wanted, slab)


@given(tiny=tinies(), cut=st.integers(0, 60), slab=st.integers(1, 4000), shard_bytes=st.integers(500, 60_000),
       spoil=st.booleans())  # fmt: skip
@example(tiny=Tiny(), cut=3, slab=500, shard_bytes=20_000, spoil=True)
@FEW
def test_going_on_after_a_cut_at_any_slab_gives_the_same_files(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, cut: int, slab: int, shard_bytes: int, spoil: bool
) -> None:
    home = tmp_path_factory.mktemp("resume")
    checkpoint = open_meta(write_meta(home / "meta", tiny, weights(tiny)))
    sizes = {"slab_bytes": slab, "shard_bytes": shard_bytes}
    list(save(checkpoint, home / "whole", **sizes))
    first = save(checkpoint, home / "cut", **sizes)
    for _ in zip(range(cut), first, strict=False):
        pass
    first.close()  # type: ignore[attr-defined]
    done = sorted((home / "cut").glob("*.safetensors")) if (home / "cut").is_dir() else []
    if spoil and done:
        done[0].write_bytes(done[0].read_bytes()[:-1] + b"\xff")
    list(save(open_meta(home / "meta"), home / "cut", **sizes))
    files = {path.name: path.read_bytes() for path in (home / "whole").iterdir() if not path.name.startswith(".")}
    assert {path.name: path.read_bytes() for path in (home / "cut").iterdir() if path.name in files} == files
    assert not list((home / "cut").glob("*.part"))


# --- torch's files ----------------------------------------------------------------------------------------------------


@st.composite
def views(draw: st.DrawFn) -> tuple[int, tuple[int, ...], tuple[int, ...], int]:
    """A storage's length, and shape, strides and offset of a view of it: permuted, stepped, overlapping, empty."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    strides = tuple(draw(st.integers(1 if size > 1 else 0, 7)) for size in shape)
    offset = draw(st.integers(0, 5))
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True) if size)
    elements = int(np.prod(shape))
    return max(last + 1, elements + offset) + draw(st.integers(0, 3)), shape, strides, offset


@given(
    made=st.lists(st.tuples(views(), st.sampled_from(list(NUMPY))), min_size=1, max_size=3),
    shared=st.booleans(), old=st.booleans(), protocol=st.sampled_from([2, 4]), slab=st.integers(1, 60),
    places=cuts(),
)  # fmt: skip
@settings(FEW, max_examples=60)
def test_any_view_of_any_storage_is_what_torch_loads(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[tuple[tuple[int, tuple[int, ...], tuple[int, ...], int], str]],
    shared: bool, old: bool, protocol: int, slab: int, places: tuple[int, ...],
) -> None:  # fmt: skip
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
             "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
             "BOOL": torch.bool}  # fmt: skip
    pools, state = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for index, ((count, shape, strides, offset), dtype) in enumerate(made):
        pool = torch.arange(count if not shared else 640).to(kinds[dtype])  # 5 * 5 * 5 * 5 and an offset
        pool = pools.setdefault(dtype, pool) if shared else pool
        state[f"t{index}"] = pool.as_strided(shape, strides, offset)
    assume(not old or protocol == 2)  # the old container was never written with another
    path = tmp_path_factory.mktemp("views") / "a.bin"
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
    found, records = read_torch_file(path)
    for name, tensor in torch.load(path, weights_only=False).items():
        wanted = bits(tensor)
        assert found[name].shape == (wanted.shape or (1,))
        assert found[name].array().tobytes() == wanted.tobytes(), name
        assert b"".join(part.tobytes() for part in found[name].slabs(slab)) == wanted.tobytes()
        assert b"".join(part.tobytes() for part in by_cuts(found[name], places)) == wanted.tobytes()
    for record in records:
        record.finish()
