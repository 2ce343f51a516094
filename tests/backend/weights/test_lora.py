"""LoRAs against the published rule, computed on whole tensors: round(float32(W) + (B @ A) * scale), one rounding
each."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import WeightsError
from backend.weights.checkpoint import Checkpoint
from backend.weights.huggingface import open_huggingface
from backend.weights.lora import add_lora
from tests.backend.weights.make import Tiny, Weights, weights, write_hf, write_lora
from tests.backend.weights.reading import loaded, same_bits


def base(folder: Path, tiny: Tiny, seed: int = 0) -> Checkpoint:
    return open_huggingface(write_hf(folder, tiny, weights(tiny, seed)))


def folded(found: Weights, adapter: Weights, scale: float) -> Weights:
    """The reference: Chinese-LLaMA-Alpaca's merge script and peft's merge_and_unload, on whole tensors."""
    merged = {}
    for name, tensor in found.items():
        key = "base_model.model." + name
        merged[name] = adapter[key].to(tensor.dtype) if key in adapter else tensor
        down = adapter.get(key.replace(".weight", ".lora_A.weight"))
        up = adapter.get(key.replace(".weight", ".lora_B.weight"))
        if down is not None and up is not None:
            merged[name] = (merged[name].float() + (up.float() @ down.float()) * scale).to(tensor.dtype)
    return merged


@given(
    dtype=st.sampled_from(["F16", "BF16", "F32"]),
    adapter_dtype=st.sampled_from(["F16", "F32", "BF16"]),
    rank=st.sampled_from([1, 4, 8]),
    alpha=st.sampled_from([3, 8, 16.0]),
    kind=st.sampled_from(["bin", "safetensors"]),
    slab_bytes=st.sampled_from([1, 5000, 10**6]),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_folding_is_the_references_bits(
    tmp_path: Path, *, dtype: str, adapter_dtype: str, rank: int, alpha: float, kind: str, slab_bytes: int
) -> None:
    tiny = Tiny(hidden=96, heads=4, kv_heads=2, layers=1, dtype=dtype)
    folder = tmp_path / f"{adapter_dtype}{rank}{alpha}{kind}"
    adapter = write_lora(folder, tiny, rank=rank, alpha=alpha, dtype=adapter_dtype, kind=kind)
    merged = add_lora(base(tmp_path / dtype, tiny), folder)
    assert same_bits(loaded(merged, slab_bytes), folded(weights(tiny), adapter, alpha / rank))


def test_two_loras_in_order_and_a_growing_vocabulary(tmp_path: Path) -> None:
    tiny = Tiny()
    first = write_lora(tmp_path / "plus", tiny, vocab=350, seed=1)
    second = write_lora(tmp_path / "alpaca", tiny, vocab=351, seed=2, alpha=4)
    merged = add_lora(add_lora(base(tmp_path / "b", tiny), tmp_path / "plus"), tmp_path / "alpaca")
    assert same_bits(loaded(merged), folded(folded(weights(tiny), first, 2.0), second, 1.0))
    assert merged.shape.vocab == 351
    assert [note.key for note in merged.notes].count("weights.found.vocabulary_grows") == 2
    with pytest.raises(WeightsError) as refused:
        add_lora(add_lora(base(tmp_path / "b", tiny), tmp_path / "alpaca"), tmp_path / "plus")
    assert refused.value.key == "weights.adapter_fewer_rows"


def test_scale_multiplies_what_was_trained(tmp_path: Path) -> None:
    tiny = Tiny()
    adapter = write_lora(tmp_path / "l", tiny, vocab=310)
    merged = add_lora(base(tmp_path / "b", tiny), tmp_path / "l", scale=0.5)
    assert same_bits(loaded(merged), folded(weights(tiny), adapter, 1.0))
    assert "weights.found.whole_not_scaled" in [note.key for note in merged.notes]


def test_rslora_and_patterns(tmp_path: Path) -> None:
    tiny = Tiny()
    patterns = {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.1.mlp.up_proj": 20}}
    adapter = write_lora(tmp_path / "l", tiny, use_rslora=True, **patterns)
    found = loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / "l"))
    plain = folded(weights(tiny), adapter, 8 / math.sqrt(4))
    special = folded(weights(tiny), adapter, 20 / math.sqrt(4))
    for name in found:
        wanted = special if name == "model.layers.1.mlp.up_proj.weight" else plain
        assert torch.equal(found[name], wanted[name]), name


def rewrite(folder: Path, change: object) -> None:
    path = folder / "adapter_model.bin"
    state = torch.load(path)
    change(state)  # type: ignore[operator]
    torch.save(state, path)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


def test_keys_of_other_eras(tmp_path: Path) -> None:
    tiny = Tiny()
    adapter = write_lora(tmp_path / "l", tiny, vocab=310)

    def other_names(state: Weights) -> None:
        for name in list(state):
            tensor = state.pop(name)
            new = name.replace(".lora_A.weight", ".lora_A.default.weight").replace(
                ".lora_B.weight", ".lora_B.default.weight"
            )
            if "lora_" not in name:
                new = name.replace(".weight", ".modules_to_save.default.weight")
                state[name.replace(".weight", ".original_module.weight")] = torch.zeros_like(tensor)
            state[new.removeprefix("base_model.model.")] = tensor

    rewrite(tmp_path / "l", other_names)
    found = loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / "l"))
    assert same_bits(found, folded(weights(tiny), adapter, 2.0))


BROKEN = {
    "no A": (lambda s: s.pop(Q + ".lora_A.weight"), "weights.adapter_half"),
    "shapes": (lambda s: s.update({Q + ".lora_B.weight": torch.zeros(32, 3)}), "weights.adapter_shapes"),
    "rank": (
        lambda s: s.update({Q + ".lora_B.weight": torch.zeros(32, 3), Q + ".lora_A.weight": torch.zeros(3, 32)}),
        "weights.adapter_rank",
    ),
    "other size": (
        lambda s: s.update({Q + ".lora_B.weight": torch.zeros(64, 4)}),
        "weights.adapter_other_size",
    ),
    "dora": (lambda s: s.update({Q + ".lora_magnitude_vector": torch.zeros(32)}), "weights.adapter_key"),
    "embedding lora": (
        lambda s: s.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 300)}),
        "weights.adapter_key",
    ),
    "bias": (lambda s: s.update({Q + ".bias": torch.zeros(32)}), "weights.adapter_key"),
    "integers": (
        lambda s: s.update({Q + ".lora_A.weight": torch.zeros(4, 32, dtype=torch.int8)}),
        "weights.dtype_unknown",
    ),
    "another layer": (
        lambda s: s.update({Q.replace("0", "7") + f".lora_{h}.weight": t for h, t in
                            (("A", torch.zeros(4, 32)), ("B", torch.zeros(32, 4)))}),
        "weights.adapter_no_place",
    ),
    "one sided": (
        lambda s: s.update({"base_model.model.lm_head.weight": torch.zeros(320, 32)}),
        "weights.adapter_one_sided",
    ),
    "empty": (lambda s: [s.clear(), s.update(x=1)], "weights.no_tensors"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "key"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_folded_is_refused(tmp_path: Path, change: object, key: str) -> None:
    tiny = Tiny()
    write_lora(tmp_path / "l", tiny)
    rewrite(tmp_path / "l", change)
    with pytest.raises(WeightsError) as refused:
        add_lora(base(tmp_path / "b", tiny), tmp_path / "l")
    assert refused.value.key == key, refused.value.text()
    assert refused.value.hint is not None


FIELDS = [
    {"peft_type": "LOHA"},
    {"use_dora": True},
    {"bias": "all"},
    {"lora_bias": True},
    {"init_lora_weights": "pissa"},
    {"layer_replication": [[0, 2]]},
    {"trainable_token_indices": [1]},
    {"auto_mapping": {"base_model_class": "X"}},
    {"rank_pattern": {"(a+)+$": 4}},
    {"r": 5},
    {"r": "4"},
    {"lora_alpha": None},
    {"lora_alpha": math.inf},
]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: next(iter(field)))
def test_settings_that_change_the_sum_are_refused(tmp_path: Path, field: dict[str, object]) -> None:
    tiny = Tiny()
    write_lora(tmp_path / "l", tiny, **field)
    with pytest.raises(WeightsError):
        add_lora(base(tmp_path / "b", tiny), tmp_path / "l")


def test_folders_without_an_adapter(tmp_path: Path) -> None:
    tiny = Tiny()
    checkpoint = base(tmp_path / "b", tiny)
    with pytest.raises(WeightsError, match=r"adapter_config\.json"):
        add_lora(checkpoint, tmp_path / "b")
    write_lora(tmp_path / "l", tiny)
    (tmp_path / "l" / "adapter_model.bin").unlink()
    with pytest.raises(WeightsError, match=r"adapter_model\.bin"):
        add_lora(checkpoint, tmp_path / "l")


def test_fan_in_fan_out_is_ignored_as_peft_does(tmp_path: Path) -> None:
    tiny = Tiny()
    adapter = write_lora(tmp_path / "l", tiny, fan_in_fan_out=True)
    merged = add_lora(base(tmp_path / "b", tiny), tmp_path / "l")
    assert same_bits(loaded(merged), folded(weights(tiny), adapter, 2.0))
    assert "weights.found.fan_in_fan_out" in [note.key for note in merged.notes]
