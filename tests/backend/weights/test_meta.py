"""Meta's layout against weights that were cut up and reordered independently (``make.write_meta``)."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import WeightsError
from backend.weights.meta import open_meta
from backend.weights.shape import ffn_from_params
from tests.backend.weights.make import Tiny, weights, write_meta
from tests.backend.weights.reading import loaded, same_bits

PARAMS_7B = '{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}'


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
    "vision": (lambda f: change_params(f, vision_chunk_size=448), "weights.params_foreign"),
    "quantised": (lambda f: change_params(f, quantization_args={"scheme": "int4"}), "weights.params_foreign"),
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


def test_copied_heads_of_405b_in_16_parts_are_refused(tmp_path: Path) -> None:
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
