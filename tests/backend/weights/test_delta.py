"""Deltas against torch's own ``base += delta`` on whole tensors, which is what FastChat does."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import UsageError, WeightsError
from backend.weights.cast import cast
from backend.weights.checkpoint import Checkpoint
from backend.weights.delta import add_delta
from backend.weights.delta_fit import check_version, looks_like_delta
from backend.weights.delta_folder import open_delta
from backend.weights.huggingface import open_huggingface
from backend.weights.meta import open_meta
from backend.weights.provenance import Origin, Provenance, write_cria_json
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


def added(base: Weights, delta: Weights, new: torch.Tensor | None = None) -> Weights:
    """The published scripts on whole tensors: the base grows by rows of ``new`` (zeros), then ``base += delta``."""
    wanted = {}
    for name, tensor in base.items():
        extra = len(delta[name]) - len(tensor)
        if extra:
            row = tensor.new_zeros(tensor.shape[1]) if new is None else tensor.mean(dim=0)
            tensor = torch.cat([tensor, row.expand(extra, -1)])
        wanted[name] = tensor + delta[name]
    return wanted


MEAN = torch.ones(1)


@pytest.mark.parametrize("slab_bytes", [64, 5000, 10**7])
@pytest.mark.parametrize("source", ["meta", "huggingface"])
def test_stanfords_delta_is_added_in_float32_to_a_mean_row(tmp_path: Path, source: str, slab_bytes: int) -> None:
    tiny, bigger = Tiny(hidden=64, layers=1), Tiny(hidden=64, layers=1, vocab=301, dtype="F32")
    base, delta = weights(tiny, 1), difference(bigger)
    wanted = added({name: tensor.float() for name, tensor in base.items()}, delta, MEAN)
    folder = tmp_path / "base"
    opened = open_meta(write_meta(folder, tiny, base, shards=2)) if source == "meta" else hf(folder, tiny, base)
    merged = add_delta(opened, hf(tmp_path / "delta", bigger, delta))
    assert same_bits(loaded(merged, slab_bytes), wanted)
    assert (merged.dtype, merged.shape.vocab, merged.delta_rows) == ("F32", 301, 1)
    assert [note.key for note in merged.notes][-2:] == ["delta.found.mean_rows", "delta.found.float32"]


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("rule", ["auto", "zero", "mean"])
def test_a_recipe_may_say_what_new_rows_start_from(tmp_path: Path, dtype: str, rule: str) -> None:
    tiny, bigger = Tiny(hidden=64, layers=1, dtype=dtype), Tiny(hidden=64, layers=1, vocab=303, dtype=dtype)
    base, delta = weights(tiny, 1), difference(bigger)
    merged = add_delta(hf(tmp_path / "b", tiny, base), hf(tmp_path / "d", bigger, delta), rule=rule)
    assert same_bits(loaded(merged), added(base, delta, MEAN if rule == "mean" else None))


def test_a_float32_delta_may_be_added_to_zeros_and_an_unknown_rule_is_refused(tmp_path: Path) -> None:
    tiny, bigger = Tiny(layers=1), Tiny(layers=1, vocab=301, dtype="F32")
    base, delta = hf(tmp_path / "b", tiny, weights(tiny)), hf(tmp_path / "d", bigger, difference(bigger))
    assert add_delta(base, delta, rule="zero").dtype == "F16"
    with pytest.raises(UsageError, match="median"):
        add_delta(base, delta, rule="median")


@pytest.mark.parametrize(
    ("extra", "template", "rule", "key"),
    [
        (1, "vicuna-v1.1", "auto", "delta.is_v0"),
        (0, "vicuna-v0", "auto", "delta.is_v11"),
        (1, "vicuna-v1.1", "zero", None),
        (1, "vicuna-v0", "auto", None),
        (0, "vicuna-v1.1", "auto", None),
        (1, "alpaca", "auto", None),
        (1, None, "auto", None),
        (3, "vicuna-v1.1", "auto", None),
        (3, "vicuna-v0", "auto", None),
    ],
)
def test_another_version_than_was_asked_for(
    tmp_path: Path, extra: int, template: str | None, rule: str, key: str | None
) -> None:
    tiny, bigger = Tiny(layers=1), Tiny(layers=1, vocab=300 + extra)
    merged = add_delta(hf(tmp_path / "b", tiny, weights(tiny)), hf(tmp_path / "d", bigger, difference(bigger)))
    if key is None:
        check_version(merged, template=template, rule=rule)
        return
    with pytest.raises(WeightsError) as refused:
        check_version(merged, template=template, rule=rule)
    assert refused.value.key == key


def test_llavas_projector_is_left_out(tmp_path: Path) -> None:
    tiny, bigger = Tiny(layers=1), Tiny(layers=1, vocab=303)
    base, delta = weights(tiny, 1), difference(bigger)
    pictures = {"model.mm_projector.weight": torch.ones(32, 16), "model.mm_projector.bias": torch.ones(32)}
    folder = hf(tmp_path / "d", bigger, delta | pictures, kind="bin", model_type="llava")
    merged = add_delta(hf(tmp_path / "b", tiny, base), folder)
    assert same_bits(loaded(merged), added(base, delta))
    notes = {note.key: note.params for note in merged.notes}
    assert notes["delta.found.pictures"] == {"count": 2, "name": "model.mm_projector.weight"}
    assert "finish.found.as_is" not in notes
    strange = hf(tmp_path / "s", bigger, delta | pictures | {"model.ears.weight": torch.ones(2)}, model_type="llava")
    with pytest.raises(WeightsError, match="ears"):
        add_delta(hf(tmp_path / "b", tiny, base), strange)


SECOND = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}


@pytest.mark.parametrize(("ours", "theirs"), [(SECOND, {}), ({}, SECOND)])
def test_another_generation_of_the_same_size_is_refused(
    tmp_path: Path, ours: dict[str, object], theirs: dict[str, object]
) -> None:
    tiny = Tiny(layers=1)
    base, delta = hf(tmp_path / "b", tiny, weights(tiny), **ours), hf(tmp_path / "d", tiny, difference(tiny), **theirs)
    with pytest.raises(WeightsError) as refused:
        add_delta(base, delta)
    names = ("Llama 2", "LLaMA 1") if ours else ("LLaMA 1", "Llama 2")
    assert refused.value.key == "delta.other_generation"
    assert (refused.value.params["base"], refused.value.params["delta"]) == names


def test_positions_are_the_deltas(tmp_path: Path) -> None:
    """Its settings were written for the finished model: a stretched context is part of what was tuned."""
    tiny = Tiny(layers=1)
    scaling = {"type": "linear", "factor": 4.0}
    long = {**SECOND, "max_position_embeddings": 16384, "rope_scaling": scaling}
    merged = add_delta(
        hf(tmp_path / "b", tiny, weights(tiny), **SECOND), hf(tmp_path / "d", tiny, difference(tiny), **long)
    )
    assert merged.llama.max_positions == 16384
    assert merged.llama.rope_scaling == {"rope_type": "linear", "factor": 4.0}
    assert "delta.found.positions" in [note.key for note in merged.notes]


@pytest.mark.parametrize("rows", [32001, 32003, 49953])
def test_a_base_with_rows_of_its_own_is_refused(tmp_path: Path, rows: int) -> None:
    tiny = Tiny(hidden=8, heads=2, kv_heads=2, layers=1, vocab=rows)
    with pytest.raises(WeightsError) as refused:
        add_delta(hf(tmp_path / "b", tiny, weights(tiny)), hf(tmp_path / "d", tiny, difference(tiny)))
    assert (refused.value.key, refused.value.params["rows"]) == ("delta.base_tuned_rows", rows)


def test_a_base_that_was_tuned_already_is_refused(tmp_path: Path) -> None:
    tiny = Tiny(layers=1)
    base, delta = hf(tmp_path / "b", tiny, weights(tiny)), hf(tmp_path / "d", tiny, difference(tiny))
    (tmp_path / "b" / "added_tokens.json").write_text('{"[PAD]": 300}')
    assert len(add_delta(base, delta)) == len(base)  # a token that the model has no row for says nothing
    (tmp_path / "b" / "added_tokens.json").write_text('{"<unk>": 0, "<s>": 1, "</s>": 2}')
    assert len(add_delta(base, delta)) == len(base)  # every base has these
    (tmp_path / "b" / "added_tokens.json").write_text('{"[PAD]": 299}')
    with pytest.raises(WeightsError) as refused:
        add_delta(base, delta)
    assert (refused.value.key, refused.value.params["token"]) == ("delta.base_tuned_tokens", "[PAD]")
    (tmp_path / "b" / "added_tokens.json").unlink()
    for roles, fine in ((("base",), True), (("base", "lora"), False)):
        origins = tuple(Origin(role, "x") for role in roles)
        made = Provenance(
            recipe=None,
            origins=origins,
            template="plain",
            system="",
            stops=(),
            context=1,
            parameters=1,
            dtype="float16",
        )
        write_cria_json(tmp_path / "b", made)
        if fine:
            add_delta(base, delta)
            continue
        with pytest.raises(WeightsError) as refused:
            add_delta(base, delta)
        assert refused.value.key == "delta.base_made_here"


def test_a_base_that_a_delta_was_not_made_from_is_noticed(tmp_path: Path) -> None:
    """Float16 differences lie on the grid of the two models they come from, and off that of a third."""
    tiny = Tiny(hidden=64, layers=1)
    ours, other, tuned = (
        weights(tiny, 1, scale=0.02),
        weights(tiny, 2, scale=0.02),
        weights(tiny, 3, scale=0.001, norm=0),
    )
    delta = {name: (ours[name] + tuned[name]) - ours[name] for name in ours}
    right, wrong = (
        [note.key for note in add_delta(hf(tmp_path / str(n), tiny, base), hf(tmp_path / "d", tiny, delta)).notes]
        for n, base in enumerate((ours, other))
    )
    assert "delta.found.off_grid" not in right
    assert "delta.found.off_grid" in wrong


HIDDEN = {
    "settings": ("config.json", b"\0\x01\x02"),
    "weights": ("pytorch_model-00001-of-00007.bin", b"\0\0\0\0\x03"),
    "encoded": ("pytorch_model.bin.9a0c.enc", b"anything"),
    "tool": ("xor_codec.py", b"import os"),
}


@pytest.mark.parametrize(("name", "data"), HIDDEN.values(), ids=HIDDEN.keys())
def test_an_exclusive_or_is_recognised(tmp_path: Path, name: str, data: bytes) -> None:
    tiny = Tiny(layers=1)
    write_hf(tmp_path, tiny, difference(tiny))
    assert len(open_delta(tmp_path)) == len(weights(tiny))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WeightsError) as refused:
        open_delta(tmp_path)
    assert (refused.value.key, refused.value.params["file"]) == ("delta.exclusive_or", name)


def test_a_delta_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        open_delta(tmp_path / "nowhere")


@given(source=st.sampled_from(["F16", "BF16", "F32"]), target=st.sampled_from(["F16", "BF16", "F32"]))
@settings(max_examples=9, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_casts_are_torchs(tmp_path: Path, source: str, target: str) -> None:
    tiny = Tiny(dtype=source)
    found = weights(tiny, scale=3000.0)
    wanted = {name: tensor.to(TORCH[target]) for name, tensor in found.items()}
    assert same_bits(loaded(cast(hf(tmp_path / source, tiny, found), target)), wanted)
