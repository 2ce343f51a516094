"""Deltas against torch's own ``base += delta`` on whole tensors, which is what FastChat does."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import WeightsError
from backend.weights.cast import cast
from backend.weights.checkpoint import Checkpoint
from backend.weights.delta import add_delta, looks_like_delta
from backend.weights.huggingface import open_huggingface
from backend.weights.meta import open_meta
from tests.backend.weights.make import TORCH, Tiny, Weights, weights, write_hf, write_meta
from tests.backend.weights.reading import loaded, same_bits


def hf(folder: Path, tiny: Tiny, found: Weights, **more: object) -> Checkpoint:
    return open_huggingface(write_hf(folder, tiny, found, **more))  # type: ignore[arg-type]


def difference(tiny: Tiny, seed: int = 2) -> Weights:
    return weights(tiny, seed, scale=0.01, norm=0.0)


@given(
    base_dtype=st.sampled_from(["F16", "BF16", "F32"]),
    delta_dtype=st.sampled_from(["F16", "BF16", "F32"]),
    shards=st.sampled_from([1, 2]),
    slab_bytes=st.integers(1, 4000),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sums_are_torchs_bits(tmp_path: Path, base_dtype: str, delta_dtype: str, shards: int, slab_bytes: int) -> None:
    base_tiny, delta_tiny = Tiny(dtype=base_dtype, kv_heads=2), Tiny(dtype=delta_dtype, kv_heads=2)
    base, delta = weights(base_tiny, 1), difference(delta_tiny)
    wanted = {name: base[name].clone() for name in base}
    for name in wanted:
        wanted[name] += delta[name]
    folder = tmp_path / f"{base_dtype}{shards}"
    merged = add_delta(
        open_meta(write_meta(folder / "base", base_tiny, base, shards=shards)),
        hf(folder / delta_dtype, delta_tiny, delta, kind="bin", shards=2),
    )
    assert same_bits(loaded(merged, slab_bytes), wanted)


@pytest.mark.parametrize("slab_bytes", [64, 1000, 10**6])
def test_v0_rows_start_at_zero_and_minus_zero_becomes_zero(tmp_path: Path, slab_bytes: int) -> None:
    tiny, bigger = Tiny(), Tiny(vocab=301)
    base, delta = weights(tiny, 1), difference(bigger)
    delta["lm_head.weight"][300, :4] = -0.0
    merged = add_delta(hf(tmp_path / "base", tiny, base), hf(tmp_path / "delta", bigger, delta, vocab_size=32000))
    found = loaded(merged, slab_bytes)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(found[name][:300], base[name] + delta[name][:300])
        assert torch.equal(found[name][300], delta[name][300])
    assert found["lm_head.weight"][300, :4].view(torch.int16).tolist() == [0, 0, 0, 0]
    assert (merged.shape.vocab, merged.delta_rows) == (301, 1)
    assert "weights.found.extra_rows" in [note.key for note in merged.notes]


def test_inv_freq_is_never_taken_from_a_delta(tmp_path: Path) -> None:
    tiny = Tiny()
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.full((4,), 9.0)}
    merged = add_delta(
        hf(tmp_path / "b", tiny, weights(tiny)), hf(tmp_path / "d", tiny, difference(tiny) | extra, kind="bin")
    )
    assert not any("inv_freq" in name for name in merged)


def test_mixed_formats_are_noted(tmp_path: Path) -> None:
    brain, half = Tiny(dtype="BF16"), Tiny()
    merged = add_delta(hf(tmp_path / "b", brain, weights(brain)), hf(tmp_path / "d", half, difference(half)))
    assert "weights.found.delta_dtype" in [note.key for note in merged.notes]


SIZES = {
    "hidden_size": (Tiny(hidden=64, heads=8, kv_heads=8), 32, 64),
    "num_hidden_layers": (Tiny(layers=3), 2, 3),
    "num_key_value_heads": (Tiny(kv_heads=2), 4, 2),
}


@pytest.mark.parametrize("what", SIZES)
def test_another_size_is_refused_with_both_numbers(tmp_path: Path, what: str) -> None:
    tiny = Tiny()
    other, ours, theirs = SIZES[what]
    with pytest.raises(WeightsError) as refused:
        add_delta(hf(tmp_path / "b", tiny, weights(tiny)), hf(tmp_path / "d", other, difference(other)))
    assert refused.value.key == "weights.delta_other_size"
    assert refused.value.params == {"what": what, "base": ours, "delta": theirs}


def test_fewer_rows_are_refused(tmp_path: Path) -> None:
    tiny, smaller = Tiny(), Tiny(vocab=299)
    with pytest.raises(WeightsError, match="299"):
        add_delta(hf(tmp_path / "b", tiny, weights(tiny)), hf(tmp_path / "d", smaller, difference(smaller)))


def test_roles_that_are_mixed_up(tmp_path: Path) -> None:
    tiny = Tiny()
    base, delta = hf(tmp_path / "b", tiny, weights(tiny, 1)), hf(tmp_path / "d", tiny, difference(tiny))
    finished = {name: tensor + difference(tiny)[name] for name, tensor in weights(tiny, 1).items()}
    merged = hf(tmp_path / "m", tiny, finished)
    assert looks_like_delta(delta)
    assert not looks_like_delta(base)
    for first, second, key in (
        (delta, base, "weights.base_is_delta"),
        (base, merged, "weights.delta_is_model"),
        (base, base, "weights.delta_is_base"),
    ):
        with pytest.raises(WeightsError) as refused:
            add_delta(first, second)
        assert refused.value.key == key


def test_a_delta_with_large_changes_is_still_a_delta(tmp_path: Path) -> None:
    """Small models are trained hard: their norms may change by half of what they were."""
    tiny = Tiny()
    merged = add_delta(
        hf(tmp_path / "b", tiny, weights(tiny)), hf(tmp_path / "d", tiny, weights(tiny, 2, scale=0.08, norm=0.6))
    )
    assert len(merged) == len(weights(tiny))


@given(source=st.sampled_from(["F16", "BF16", "F32"]), target=st.sampled_from(["F16", "BF16", "F32"]))
@settings(max_examples=9, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_casts_are_torchs(tmp_path: Path, source: str, target: str) -> None:
    tiny = Tiny(dtype=source)
    found = weights(tiny, scale=3000.0)
    wanted = {name: tensor.to(TORCH[target]) for name, tensor in found.items()}
    assert same_bits(loaded(cast(hf(tmp_path / source, tiny, found), target)), wanted)
