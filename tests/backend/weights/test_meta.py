"""Meta's layout against weights that were cut up and reordered independently (``make.write_meta``)."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import WeightsError
from backend.weights.meta import open_meta
from backend.weights.meta_files import least_bytes
from backend.weights.meta_params import ffn_from_params
from backend.weights.meta_releases import Size
from backend.weights.opening import open_checkpoint
from backend.weights.writer import save, written
from tests.backend.weights.make import Tiny, weights, write_hf, write_meta
from tests.backend.weights.reading import loaded, same_bits


@given(
    shards=st.sampled_from([1, 2, 4]),
    kv_heads=st.sampled_from([4, 8]),
    head_dim=st.sampled_from([4, 8]),
    dtype=st.sampled_from(["F16", "BF16", "F32"]),
    llama3=st.booleans(),
    shared=st.booleans(),
    slab_bytes=st.integers(1, 5000),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_shard_count_and_shape_is_bit_exact(
    tmp_path: Path,
    *,
    shards: int,
    kv_heads: int,
    head_dim: int,
    dtype: str,
    llama3: bool,
    shared: bool,
    slab_bytes: int,
) -> None:
    tiny = Tiny(hidden=8 * head_dim, heads=8, kv_heads=kv_heads, vocab=40, dtype=dtype, llama3=llama3)
    wanted = weights(tiny)
    shutil.rmtree(tmp_path / "m", ignore_errors=True)
    checkpoint = open_meta(write_meta(tmp_path / "m", tiny, wanted, shards=shards, shared_storage=shared))
    assert same_bits(loaded(checkpoint, slab_bytes), wanted)
    assert (checkpoint.shape.kv_heads, checkpoint.shape.vocab, checkpoint.shape.ffn) == (kv_heads, 40, tiny.ffn)
    assert checkpoint.dtype == dtype


def test_conversion_equals_the_formula_of_transformers(tmp_path: Path) -> None:
    """The reference permutes with view(heads, half, 2, in).transpose(1, 2) (convert_llama_weights_to_hf.py)."""
    tiny = Tiny()
    raw = torch.randn(32, 32).half()
    write_meta(tmp_path, tiny, weights(tiny))
    state = torch.load(tmp_path / "consolidated.00.pth")
    state["layers.0.attention.wq.weight"] = raw
    torch.save(state, tmp_path / "consolidated.00.pth")
    wanted = raw.view(4, 4, 2, 32).transpose(1, 2).reshape(32, 32)
    tensor = open_meta(tmp_path)["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(torch.from_numpy(tensor.array()), wanted)
    assert torch.equal(torch.from_numpy(tensor.rows(3, 21).copy()), wanted[3:21])


def test_llama3_facts(tmp_path: Path) -> None:
    tiny = Tiny(llama3=True, dtype="BF16")
    shape = open_meta(write_meta(tmp_path, tiny, weights(tiny))).shape
    assert (shape.rope_theta, shape.max_positions, shape.eos) == (500000.0, 131072, (128001,))
    assert shape.rope_scaling is not None
    assert shape.rope_scaling["rope_type"] == "llama3"


@pytest.mark.parametrize(("dtype", "positions"), [("F16", 2048), ("BF16", 4096)])
def test_llama1_and_2_differ_in_their_dtype(tmp_path: Path, dtype: str, positions: int) -> None:
    tiny = Tiny(dtype=dtype)
    assert open_meta(write_meta(tmp_path, tiny, weights(tiny))).shape.max_positions == positions


@pytest.mark.parametrize(
    ("dim", "multiple_of", "multiplier", "ffn"),
    [(4096, 256, None, 11008), (5120, 256, None, 13824), (6656, 256, None, 17920), (8192, 256, None, 22016),
     (8192, 4096, 1.3, 28672), (4096, 1024, 1.3, 14336), (2048, 256, 1.5, 8192), (16384, 4096, 1.2, 53248)],
)  # fmt: skip
def test_feed_forward_sizes_of_the_published_models(dim: int, multiple_of: int, multiplier: float, ffn: int) -> None:
    table = {"dim": dim, "multiple_of": multiple_of, "ffn_dim_multiplier": multiplier}
    assert ffn_from_params(table) == ffn


def change_params(folder: Path, **changes: object) -> None:
    path = folder / "params.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reshape(folder: Path, shard: int, **changes: torch.Tensor | None) -> None:
    path = folder / f"consolidated.{shard:02d}.pth"
    state = torch.load(path)
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    torch.save(state, path)


CASES = {
    "gap": (lambda f: (f / "consolidated.01.pth").rename(f / "consolidated.02.pth"), "weights.meta_gap"),
    "first missing": (lambda f: (f / "consolidated.00.pth").unlink(), "weights.meta_gap"),
    "last missing": (lambda f: (f / "consolidated.01.pth").unlink(), "weights.meta_shard_count"),
    "surplus": (lambda f: (f / "optimizer.pth").write_bytes(b"x"), "weights.meta_surplus"),
    "no params": (lambda f: (f / "params.json").unlink(), "weights.file_missing"),
    "params twice a key": (lambda f: (f / "params.json").write_text('{"dim": 1, "dim": 2}'), "weights.json_bad"),
    "params a list": (lambda f: (f / "params.json").write_text("[]"), "weights.json_bad"),
    "params a page": (lambda f: (f / "params.json").write_text("<html>"), "weights.file_is_page"),
    "vision": (lambda f: change_params(f, vision_chunk_size=448), "meta.is_vision"),
    "quantised": (lambda f: change_params(f, quantization_args={"scheme": "int4"}), "meta.is_quantised"),
    "adapter trained in": (lambda f: change_params(f, lora_args={"rank": 16}), "meta.is_lora"),
    "pruned": (lambda f: change_params(f, hidden_dim=32), "meta.is_pruned"),
    "experts": (lambda f: change_params(f, moe_args={"num_experts": 16}), "meta.is_mixture"),
    "8-bit": (lambda f: (f / "fp8_scales_0.pt").write_bytes(b"x"), "meta.is_fp8"),
    "vision tensors": (
        lambda f: [reshape(f, n, vision_model__x=torch.zeros(3).half()) for n in (0, 1)],
        "meta.is_vision",
    ),
    "quantised tensors": (
        lambda f: [reshape(f, n, layers__0__attention__wq__scales=torch.zeros(3)) for n in (0, 1)],
        "meta.is_quantised",
    ),
    "heads": (lambda f: change_params(f, n_heads=5), "weights.params_do_not_fit"),
    "heads a text": (lambda f: change_params(f, n_heads="4"), "weights.bad_number"),
    "no layers": (lambda f: change_params(f, n_layers=0), "weights.bad_number"),
    "a million layers": (lambda f: change_params(f, n_layers=10**6), "weights.bad_number"),
    "more layers": (lambda f: change_params(f, n_layers=3), "weights.tensor_missing"),
    "fewer layers": (lambda f: change_params(f, n_layers=1), "weights.tensor_unknown"),
    "vocabulary": (lambda f: change_params(f, vocab_size=32000), "weights.vocab_differs"),
    "eps": (lambda f: change_params(f, norm_eps=5), "weights.bad_number"),
    "unlike": (
        lambda f: reshape(f, 1, layers__0__attention__wv__weight=torch.zeros(8, 32).half()),
        "weights.shards_unlike",
    ),
    "tensor missing": (lambda f: reshape(f, 1, norm__weight=None), "weights.shards_unlike"),
    "mixed": (lambda f: reshape(f, 1, norm__weight=torch.zeros(32).half()), "weights.shards_differ"),
    "layer 00": (
        lambda f: [reshape(f, n, layers__00__attention_norm__weight=torch.zeros(32).half()) for n in (0, 1)],
        "weights.tensor_unknown",
    ),
    "not llama": (
        lambda f: [torch.save({"x": torch.zeros(2)}, f / f"consolidated.0{n}.pth") for n in (0, 1)],
        "weights.meta_not_llama",
    ),
    "integers": (
        lambda f: [reshape(f, n, tok_embeddings__weight=torch.zeros(300, 16, dtype=torch.int8)) for n in (0, 1)],
        "weights.dtype_unknown",
    ),
}


@pytest.mark.parametrize(("damage", "key"), CASES.values(), ids=CASES.keys())
def test_what_is_wrong_is_said(tmp_path: Path, damage: object, key: str) -> None:
    tiny = Tiny()
    write_meta(tmp_path, tiny, weights(tiny), shards=2)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(WeightsError) as refused:
        loaded(open_meta(tmp_path))
    assert refused.value.key == key, refused.value.text()
    assert refused.value.hint is not None


def test_shards_cut_through_a_head_are_refused(tmp_path: Path) -> None:
    tiny = Tiny(hidden=32, heads=8, kv_heads=2, vocab=40)
    write_meta(tmp_path, tiny, weights(tiny), shards=4)
    with pytest.raises(WeightsError) as refused:
        open_meta(tmp_path)
    assert refused.value.key == "weights.meta_heads_cut"


def test_output_rows_that_do_not_divide_evenly(tmp_path: Path) -> None:
    """Chinese-LLaMA's merge script gives the remainder of 49953 rows to the last shard."""
    tiny = Tiny(vocab=301)
    wanted = weights(tiny)
    write_meta(tmp_path, tiny, wanted, shards=2)
    reshape(tmp_path, 0, output__weight=wanted["lm_head.weight"][:150].clone())
    reshape(tmp_path, 1, output__weight=wanted["lm_head.weight"][150:].clone())
    assert same_bits(loaded(open_meta(tmp_path)), wanted)


def test_work_begun_with_wrong_settings_is_not_kept(tmp_path: Path) -> None:
    """A stop, another params.json, and on: no part may keep the head order of the wrong number of heads."""
    tiny = Tiny()
    folder = write_meta(tmp_path / "m", tiny, weights(tiny))
    change_params(folder, n_heads=2)
    steps = save(open_meta(folder), tmp_path / "out", shard_bytes=10_000)
    while len(written(tmp_path / "out")) < 3:  # the first one has the word table alone, which has no heads
        next(steps)
    steps.close()
    change_params(folder, n_heads=4)
    list(save(open_meta(folder), tmp_path / "out", shard_bytes=10_000))
    list(save(open_meta(folder), tmp_path / "once", shard_bytes=10_000))
    assert written(tmp_path / "out") == written(tmp_path / "once")


def test_a_link_to_a_shard_on_another_disk_is_followed(tmp_path: Path) -> None:
    folder, shard = write_meta(tmp_path / "m", Tiny(), weights(Tiny())), "consolidated.00.pth"
    (folder / shard).rename(tmp_path / "elsewhere.pth")
    (folder / shard).symlink_to(tmp_path / "elsewhere.pth")
    assert same_bits(loaded(open_meta(folder)), weights(Tiny()))


def test_a_wrapped_params_json_is_opened(tmp_path: Path) -> None:
    tiny = Tiny()
    write_meta(tmp_path, tiny, weights(tiny))
    (tmp_path / "params.json").write_text(json.dumps({"model": tiny.params()}))
    assert open_meta(tmp_path).shape.hidden == 32


def test_a_formula_that_differs_is_noted(tmp_path: Path) -> None:
    tiny = Tiny()
    write_meta(tmp_path, tiny, weights(tiny))
    change_params(tmp_path, multiple_of=256)
    assert "weights.found.ffn_differs" in [note.key for note in open_meta(tmp_path).notes]


def notes(folder: Path) -> list[str]:
    return [note.key for note in open_checkpoint(folder).notes]


@pytest.mark.parametrize("stated", [2, None], ids=["params.json says 2 key heads", "the table does"])
@pytest.mark.parametrize("shards", [4, 8])
def test_copies_of_key_heads_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: int | None, shards: int
) -> None:
    """Llama 3.1 405B in 16 parts stores each of 8 key heads twice, so that every part has one."""
    tiny = Tiny(hidden=64, heads=8, kv_heads=2, vocab=40, llama3=True, dtype="BF16")
    wanted = weights(tiny)
    copies = shards // 2
    stored = {
        name: tensor.view(2, 8, 64).repeat_interleave(copies, 0).reshape(-1, 64).clone()
        if "k_proj" in name or "v_proj" in name
        else tensor
        for name, tensor in wanted.items()
    }
    more = replace(tiny, kv_heads=shards)
    write_meta(tmp_path, more, stored, shards=shards)
    if stated:
        change_params(tmp_path, n_kv_heads=stated)
    else:
        size = Size("tiny", shards, 64, tiny.layers, 8, shards, tiny.ffn, copies=copies)
        monkeypatch.setattr("backend.weights.meta_releases.SIZES", (size,))
    checkpoint = open_meta(tmp_path)
    assert checkpoint.llama.kv_heads == 2
    assert same_bits(loaded(checkpoint, 300), wanted)
    assert "meta.found.copies" in notes(tmp_path)

    name = "layers.1.attention.wv.weight"
    state = torch.load(tmp_path / "consolidated.01.pth")
    state[name][0, 0] += 1
    torch.save(state, tmp_path / "consolidated.01.pth")
    with pytest.raises(WeightsError) as refused:
        loaded(open_meta(tmp_path))
    assert refused.value.key == "meta.copies_differ"
    assert "layers.1.self_attn.v_proj" in refused.value.text()


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("llama3", [False, True])
def test_a_head_that_is_the_embeddings_is_stored_once(tmp_path: Path, shards: int, llama3: bool) -> None:
    tiny = Tiny(vocab=300, llama3=llama3)
    found = weights(tiny)
    embed = found["model.embed_tokens.weight"]
    checkpoint = open_meta(write_meta(tmp_path, tiny, found | {"lm_head.weight": embed}, shards=shards))
    del found["lm_head.weight"]
    assert checkpoint.shape.tie
    assert same_bits(loaded(checkpoint), found)
    assert "meta.found.tied" in notes(tmp_path)


@pytest.mark.parametrize("row", [0, 200, 299])
def test_a_head_that_differs_anywhere_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int) -> None:
    tiny = Tiny(vocab=300, llama3=True)
    size = Size("1B", 1, 32, tiny.layers, 4, 4, tiny.ffn)
    monkeypatch.setattr("backend.weights.meta_releases.SIZES", (size,))
    found = weights(tiny)
    found["lm_head.weight"] = found["model.embed_tokens.weight"].clone()
    found["lm_head.weight"][row, 31] *= -1
    checkpoint = open_meta(write_meta(tmp_path, tiny, found))
    assert not checkpoint.shape.tie
    assert same_bits(loaded(checkpoint), found)
    assert "meta.found.untied" in notes(tmp_path)


@pytest.mark.parametrize("llama3", [False, True])
def test_published_sizes_are_named_and_other_cuts_of_them_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama3: bool
) -> None:
    tiny = Tiny(llama3=llama3)
    monkeypatch.setattr("backend.weights.meta_releases.SIZES", (Size("9B", 2, 32, 2, 4, 4, tiny.ffn, 16),))
    write_meta(tmp_path / "two", tiny, weights(tiny), shards=2)
    found = notes(tmp_path / "two")
    assert "meta.found.release" in found
    assert "meta.found.resharded" not in found
    write_meta(tmp_path / "four", tiny, weights(tiny), shards=4)
    assert "meta.found.resharded" in notes(tmp_path / "four")
    (tmp_path / "two" / "consolidated.01.pth").unlink()
    with pytest.raises(WeightsError) as refused:
        open_meta(tmp_path / "two")
    assert refused.value.key == "meta.shard_count"
    assert "Shards of 9B: 2; in this folder: 1." in refused.value.text()


def test_a_file_that_ends_too_early_says_how_much_is_missing(tmp_path: Path) -> None:
    tiny = Tiny(hidden=64, vocab=40, llama3=True)
    write_meta(tmp_path, tiny, weights(tiny), shards=2)
    path = tmp_path / "consolidated.01.pth"
    whole = path.read_bytes()
    payload = sum(tensor.nbytes for name, tensor in torch.load(path).items() if name != "rope.freqs")
    path.write_bytes(whole[:1000])
    with pytest.raises(WeightsError) as refused:
        open_meta(tmp_path)
    assert refused.value.key == "meta.cut_short"
    assert refused.value.params == {"file": path.name, "bytes": 1000, "expected": payload, "missing": payload - 1000}
    path.write_bytes(whole[:-100])  # nothing of the weights is missing, only the list of what is where
    with pytest.raises(WeightsError) as refused:
        open_meta(tmp_path)
    assert refused.value.key == "weights.zip_truncated"


def test_the_size_of_a_7b_file_is_known_from_params_json() -> None:
    params = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}
    assert least_bytes(params, 1) == 13_476_831_232
    params |= {"dim": 5120, "n_heads": 40, "n_layers": 40}
    assert least_bytes(params, 1) == least_bytes(params, 2) == 13_016_279_040
    params |= {"dim": 8192, "n_heads": 64, "n_layers": 80, "n_kv_heads": 8, "multiple_of": 4096}
    assert least_bytes(params | {"ffn_dim_multiplier": 1.3}, 8) == 17_246_470_144
    assert least_bytes(params | {"ffn_dim_multiplier": 1.3, "vocab_size": 128256}, 8) == 17_640_734_720


def test_a_vocabulary_cut_along_rows_need_not_divide_evenly(tmp_path: Path) -> None:
    tiny = Tiny(vocab=301, llama3=True)
    wanted = weights(tiny)
    write_meta(tmp_path, tiny, wanted, shards=2)
    for meta, hf in (("output__weight", "lm_head.weight"), ("tok_embeddings__weight", "model.embed_tokens.weight")):
        reshape(tmp_path, 0, **{meta: wanted[hf][:150].clone()})
        reshape(tmp_path, 1, **{meta: wanted[hf][150:].clone()})
    assert same_bits(loaded(open_meta(tmp_path)), wanted)


def test_the_folder_above_a_single_size_and_the_one_around_original_are_opened(tmp_path: Path) -> None:
    tiny = Tiny()
    write_meta(tmp_path / "llama" / "7B", tiny, weights(tiny))
    assert open_checkpoint(tmp_path / "llama").folder == tmp_path / "llama" / "7B"
    write_meta(tmp_path / "llama" / "13B", tiny, weights(tiny))
    with pytest.raises(WeightsError) as refused:
        open_checkpoint(tmp_path / "llama")
    assert refused.value.params["sizes"] == "13B, 7B"

    write_meta(tmp_path / "repo" / "original", tiny, weights(tiny))
    (tmp_path / "repo" / "config.json").write_text("{}")
    assert open_checkpoint(tmp_path / "repo").folder.name == "original"
    write_hf(tmp_path / "repo", tiny, weights(tiny))
    assert open_checkpoint(tmp_path / "repo").kind == "huggingface"
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "config.json").write_text("{}")
    assert open_checkpoint(write_meta(tmp_path / "flat", tiny, weights(tiny))).kind == "meta"


def test_generations_reach_the_shape(tmp_path: Path) -> None:
    tiny = Tiny()
    write_meta(tmp_path, tiny, weights(tiny))
    change_params(tmp_path, norm_eps=1e-5)
    assert open_meta(tmp_path).shape.max_positions == 4096
    change_params(tmp_path, rope_theta=1000000)
    code = open_meta(tmp_path).llama
    assert (code.max_positions, code.rope_theta, code.eos) == (16384, 1e6, (2,))
    assert "meta.found.by_theta" in notes(tmp_path)
